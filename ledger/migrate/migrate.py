"""Brings the schema up to date: applies numbered SQL files in order, each once, each in its own transaction.

schema/journal.json lists them: file name, SHA-256, and the SHA-256 of the line before it, so that an edited, removed or
reordered migration is refused. The database keeps the applied ones in `ledger.migrations`.

Migrations are backward compatible: a client works with a database that has more migrations than the client knows. A
migration that breaks older clients says so in its name: `0012_drop_x.needs_0010.sql` is for clients that know 0010.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from ledger.drivers.connections import connect
from ledger.drivers.run import drive
from ledger.effects import Pipeline, Plan, Query, Refused, Rollback, SqlScript, Wait
from ledger.errors import MigrationTampered, SchemaMismatch, Unavailable
from ledger.settings import Settings
from ledger.statements import sql
from ledger.store.ledgers import BEGIN, COMMIT, LET_REBUILD, LOCK_TIMEOUT, create_ledger
from ledger.store.locks import kept, take

log = logging.getLogger("ledger.migrate")

SQL = sql(__file__)
TRIES, PAUSE = 120, 2.0
"""Attempts for a migration whose tables are in use, and the seconds between: some seven minutes."""
_OLDEST_POSTGRES = 150000
NEEDS = re.compile(r"\.needs_(\d{4})\.sql")


def migrate(settings: Settings, *, dry_run: bool = False, folder: Path | None = None) -> list[str]:
    """Applies the missing migrations and creates the ledger `main`. Returns the files. dry_run: applies nothing.

    Safe when several processes start at once: one works, the others wait. Raises MigrationTampered, Unavailable, and
    SchemaMismatch for a database that needs a newer package or that is not supported.
    """
    migrations = load_migrations(folder)
    with closing(connect(settings)) as connection:
        drive(_check_server(), connection)
        if dry_run:
            pending, _ = drive(_compare(migrations), connection)
            return [migration.file for migration in pending]
        with closing(connect(settings)) as holder:
            drive(_wait_for_turn(), holder)
            with kept(holder, connection, settings.silence_timeout) as locked:
                return drive(_bring_up(migrations, locked), connection)


def check_schema(migrations: list[Migration]) -> Plan[list[str]]:
    """The database's migrations that come after `migrations` and are compatible with a client that knows only these.

    Raises SchemaMismatch if the database lacks one of `migrations`, or has one that needs a newer client.
    """
    pending, newer = yield from _compare(migrations)
    if pending:
        missing = "has no ledger schema" if len(pending) == len(migrations) else f"lacks {pending[0].file}"
        raise SchemaMismatch(f"the database {missing}: run 'auditledger migrate'")
    return newer


def _check_server() -> Plan[None]:
    [(version, encoding)] = yield Query(SQL["server"])
    if version < _OLDEST_POSTGRES:
        raise SchemaMismatch(f"PostgreSQL 15 or newer is needed, this is {version // 10000}")
    if encoding != "UTF8":
        raise SchemaMismatch(f"the database's encoding is {encoding}: create one with UTF8")


def _wait_for_turn() -> Plan[None]:
    """Takes the lock that serialises migrations of this database. Raises Unavailable."""
    for left in reversed(range(TRIES)):
        if (yield from take(Query(SQL["lock"]))):
            return
        yield from _wait("another migration of this database is running", SQL["lock_holder"], left)


def _bring_up(migrations: list[Migration], locked: Callable[[], None]) -> Plan[list[str]]:
    """Applies all missing migrations. locked: raises Unavailable if the lock was lost."""
    applied: list[str] = []
    left = TRIES
    while True:
        locked()
        try:
            migration = yield from _apply_next(migrations)
        except _InUse as in_use:
            left -= 1
            problem = f"{in_use} was not applied: long transactions use its tables"
            yield from _wait(problem, SQL["in_the_way"], left)
            continue
        if migration is None:
            yield from _validate()
            return applied
        applied.append(migration.file)
        left = TRIES


class _InUse(Exception):
    """A migration was not applied, because a long transaction uses a table that it alters."""


def _apply_next(migrations: list[Migration]) -> Plan[Migration | None]:
    """Applies the next missing migration in its own transaction. None if none is missing. Raises _InUse."""
    migration: Migration | None = None
    try:
        yield Pipeline((BEGIN, Query(SQL["short_lock_timeout"]), Query(SQL["lock_one"])))
        pending, _ = yield from _compare(migrations)
        if pending:
            migration = pending[0]
            yield SqlScript(SQL["become_owner"])
            yield SqlScript(SQL["set_defaults_aside"])
            yield SqlScript(migration.sql)
            yield SqlScript(SQL["become_owner"])
            yield Query(SQL["record"], (migration.file, migration.sha256))
            yield SqlScript(SQL["leave_owner"])
        else:
            yield SqlScript(LET_REBUILD)
            yield SqlScript(SQL["clear_rebuilds"])
            yield from create_ledger("main")
        yield COMMIT
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Rollback()
        raise _InUse("the last step" if migration is None else migration.file) from refused
    return migration


def _validate() -> Plan[None]:
    """Validates the constraints that a migration added NOT VALID. Logs those that cannot be validated."""
    if not (yield Query(SQL["not_validated"])):
        return
    try:
        yield Pipeline((BEGIN, Query(SQL["short_lock_timeout"])))
        yield SqlScript(SQL["become_owner"])
        yield SqlScript(SQL["validate"])
        yield SqlScript(SQL["leave_owner"])
        yield COMMIT
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Rollback()
    for (name,) in (yield Query(SQL["not_validated"])):
        log.warning(
            "constraint %s on ledger.audit_logs is not validated: entries break it ('auditledger verify' lists them), "
            "or the table was in use (migrate again)",
            name,
        )


def _wait(problem: str, holders: str, left: int) -> Plan[None]:
    """Waits for other sessions. holders: the query that names them. Raises Unavailable if no attempt is left."""
    sessions = yield Query(holders)
    named = "; ".join(
        f"pid {pid} ({name or 'no name'}" + (f", since {since:%Y-%m-%d %H:%M:%SZ})" if since else ")")
        for pid, name, since in sessions
    )
    message = f"{problem}: {named or 'held by a session that this user may not see'}"
    if not left:
        raise Unavailable(f"{message}. Migrations applied before it stay; migrate again later")
    if left == TRIES - 1:
        log.warning("migrate waits; appends go on: %s", message)
    yield Wait(PAUSE)


def _compare(migrations: list[Migration]) -> Plan[tuple[list[Migration], list[str]]]:
    """The migrations that the database lacks, and the files of those that come after all of `migrations`."""
    [(present,)] = yield Query(SQL["present"])
    applied = (yield Query(SQL["applied"])) if present else []
    for (file, sha256), migration in zip(applied, migrations, strict=False):
        if (file, sha256) != (migration.file, migration.sha256):
            raise MigrationTampered(
                f"the database was migrated with {file} (SHA-256 {sha256[:12]}…), this package has {migration.file} "
                f"({migration.sha256[:12]}…): install the package that migrated it"
            )
    newer = [file for file, _ in applied[len(migrations) :]]
    for file in newer:
        needed = NEEDS.search(file)
        if needed and needed[1] > migrations[-1].file[:4]:
            raise SchemaMismatch(
                f"the database is too new for this package (it has {file}, the package's last is "
                f"{migrations[-1].file}): upgrade auditledger"
            )
    return migrations[len(applied) :], newer


# ------------------------------------------------------------------------------------------------------------ the files


class Migration(NamedTuple):
    """One migration file. sha256: of its bytes, in hex."""

    file: str
    sha256: str
    sql: str


def schema_folder() -> Path:
    """The folder of the migrations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    packaged = package / "_schema"
    return packaged if packaged.is_dir() else package.parent / "schema"


def load_migrations(folder: Path | None = None) -> list[Migration]:
    """The migrations in order, checked against their journal. Raises MigrationTampered."""
    folder = folder or schema_folder()
    migrations = []
    previous = "0" * 64
    for line in _journal(folder):
        if line["previous"] != previous:
            raise MigrationTampered(f"journal.json: the line of {line['file']} does not continue the previous line")
        file = folder / line["file"]
        if not file.exists():
            raise MigrationTampered(f"{line['file']} is in journal.json, but the file is missing")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != line["sha256"]:
            raise MigrationTampered(f"{line['file']} was edited: its hash is not the one in journal.json")
        migrations.append(Migration(line["file"], line["sha256"], content.decode()))
        previous = hashlib.sha256(json.dumps(line, separators=(",", ":")).encode()).hexdigest()
    unlisted = {file.name for file in folder.glob("*.sql")} - {migration.file for migration in migrations}
    if unlisted:
        raise MigrationTampered(f"not in journal.json: {', '.join(sorted(unlisted))} (run 'make journal')")
    return migrations


def _journal(folder: Path) -> list[dict[str, str]]:
    try:
        lines = msgspec.json.decode((folder / "journal.json").read_bytes(), type=list[dict[str, str]])
    except (OSError, ValueError) as error:
        raise MigrationTampered(f"journal.json is missing or damaged: {error}") from None
    if any(line.keys() != {"file", "sha256", "previous"} for line in lines):
        raise MigrationTampered("journal.json is damaged: each line has file, sha256 and previous")
    return lines
