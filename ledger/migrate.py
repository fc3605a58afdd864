"""Brings the schema up to date: numbered SQL files, each applied once, in order, in a transaction of its own.

schema/journal.json lists them: file name, SHA-256, and the SHA-256 of the line before it, so that an edited, removed or
reordered migration is refused. The database keeps what was applied in `ledger.migrations`.

A client works with a database that has more migrations than it knows, as each leaves what older clients use as it was.
The one that ends this says so in its name: `0012_drop_x.needs_0010.sql` is for clients that know 0010, or more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from ledger.connections import ALONE, connect
from ledger.drive import drive
from ledger.effects import Plan, Query, Refused, SqlScript, Wait, sql
from ledger.errors import MigrationTampered, SchemaMismatch, Unavailable
from ledger.settings import Settings
from ledger.store import LOCK_TIMEOUT, create_ledger

log = logging.getLogger(__name__)

SQL = sql("migrate")
TRIES, PAUSE = 120, 2.0
"""How often a migration whose tables are in use is tried, and the seconds between: some seven minutes."""
_OLDEST_POSTGRES = 150000
_NEEDS = re.compile(r"\.needs_(\d{4})\.sql")


class Migration(NamedTuple):
    """One file of the schema. sha256: of its bytes, in hex."""

    file: str
    sha256: str
    sql: str


def schema_folder() -> Path:
    """Where the migrations are: in the package as installed, beside it in a checkout."""
    packaged = Path(__file__).parent / "_schema"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "schema"


def load(folder: Path | None = None) -> list[Migration]:
    """The migrations in order, checked against their journal. Raises MigrationTampered."""
    folder = folder or schema_folder()
    migrations = []
    previous = "0" * 64
    for line in _journal(folder):
        if line["previous"] != previous:
            raise MigrationTampered(f"journal.json: the line of {line['file']} does not follow the one before it")
        file = folder / line["file"]
        if not file.exists():
            raise MigrationTampered(f"{line['file']} is in journal.json, but the file is missing")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != line["sha256"]:
            raise MigrationTampered(f"{line['file']} is not the file that journal.json names: it was edited")
        migrations.append(Migration(line["file"], line["sha256"], content.decode()))
        previous = hashlib.sha256(json.dumps(line, separators=(",", ":")).encode()).hexdigest()
    strangers = {file.name for file in folder.glob("*.sql")} - {migration.file for migration in migrations}
    if strangers:
        raise MigrationTampered(f"not in journal.json: {', '.join(sorted(strangers))} (run 'make journal')")
    return migrations


def _journal(folder: Path) -> list[dict[str, str]]:
    try:
        lines = msgspec.json.decode((folder / "journal.json").read_bytes(), type=list[dict[str, str]])
    except (OSError, ValueError) as error:
        raise MigrationTampered(f"journal.json is missing or damaged: {error}") from None
    if any(line.keys() != {"file", "sha256", "previous"} for line in lines):
        raise MigrationTampered("journal.json is damaged: each line has file, sha256 and previous")
    return lines


def migrate(settings: Settings, *, dry_run: bool = False, folder: Path | None = None) -> list[str]:
    """Applies what is missing and creates the ledger `main`; the files applied, or that would be (dry_run).

    Safe when several processes start at once: one works, the others wait for it.
    Raises MigrationTampered, Unavailable, and SchemaMismatch for a database that needs a newer package or is unfit.
    """
    migrations = load(folder)
    connection = connect(settings, ALONE)
    try:
        return drive(_bring_up(migrations, dry_run), lambda: connection)
    finally:
        connection.close()  # ends the advisory lock too


def check_schema(migrations: list[Migration]) -> Plan[list[str]]:
    """The database's migrations beyond these, which a client that knows only these can work with.

    Raises SchemaMismatch where the database lacks one of these, or has one that needs a newer client.
    """
    pending, newer = yield from _compare(migrations)
    if pending:
        missing = "has no ledger schema" if len(pending) == len(migrations) else f"lacks {pending[0].file}"
        raise SchemaMismatch(f"the database {missing}: run 'auditledger migrate'")
    return newer


class Function(NamedTuple):
    """A function of the schema. as_owner: SECURITY DEFINER. settings: `name=value` each, as in pg_proc.proconfig."""

    name: str
    source: str
    as_owner: bool
    settings: tuple[str, ...]


def functions(migrations: list[Migration]) -> list[Function]:
    """Each function of the schema, as the last migration that defines it has it."""
    pattern = re.compile(r"create (?:or replace )?function (ledger\.\w+)\((.*?)\$\$(.*?)\$\$", re.DOTALL)
    setting = re.compile(r" set ([\w.]+) = (.+?)(?= set [\w.]+ = | as$)")
    found = {}
    for migration in migrations:
        for name, declared, source in pattern.findall(migration.sql):
            head = " ".join(declared.split())
            settings = tuple(f"{key}={value.strip(chr(39))}" for key, value in setting.findall(head))
            found[name] = Function(name, source, " security definer " in head, settings)
    return list(found.values())


def _bring_up(migrations: list[Migration], dry_run: bool) -> Plan[list[str]]:
    [(version, encoding)] = yield Query(SQL["server"])
    if version < _OLDEST_POSTGRES:
        raise SchemaMismatch(f"PostgreSQL 15 or newer is needed, this is {version // 10000}")
    if encoding != "UTF8":
        raise SchemaMismatch(f"the database's encoding must be UTF8, this one's is {encoding}: create it anew")
    if not dry_run:
        yield Query(SQL["wait_forever"])
        yield Query(SQL["lock"])
    pending, _ = yield from _compare(migrations)
    if dry_run:
        return [migration.file for migration in pending]
    for migration in pending:
        for left in reversed(range(TRIES)):
            if (yield from _apply(migration)):
                break
            yield from _wait(migration, left)
    yield from _validate()
    yield SqlScript(SQL["let_rebuild"])
    yield from create_ledger("main")
    return [migration.file for migration in pending]


def _apply(migration: Migration) -> Plan[bool]:
    """Applies it in a transaction of its own; False where a table that it alters is in use for long."""
    try:
        yield Query("begin")
        yield Query(SQL["short_lock_timeout"])
        yield SqlScript(SQL["become_owner"])
        yield SqlScript(migration.sql)
        yield SqlScript(SQL["become_owner"])
        yield Query(SQL["record"], (migration.file, migration.sha256))
        yield SqlScript(SQL["leave_owner"])
        yield Query("commit")
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Query("rollback")
        return False
    return True


def _validate() -> Plan[None]:
    """Validates the constraints that a migration added NOT VALID. What cannot be now, or never, is logged."""
    if not (yield Query(SQL["not_validated"])):
        return
    try:
        yield Query("begin")
        yield Query(SQL["short_lock_timeout"])
        yield SqlScript(SQL["become_owner"])
        yield SqlScript(SQL["validate"])
        yield SqlScript(SQL["leave_owner"])
        yield Query("commit")
    except Refused as refused:
        if refused.sqlstate != LOCK_TIMEOUT:
            raise
        yield Query("rollback")
    for (name,) in (yield Query(SQL["not_validated"])):
        log.warning(
            "constraint %s on ledger.audit_logs is not validated: entries break it, as 'auditledger verify' says, or, "
            "where none does, the table was in use: migrate again",
            name,
        )


def _wait(migration: Migration, left: int) -> Plan[None]:
    """Lets those in line behind it go first. Raises Unavailable where no try is left."""
    found = yield Query(SQL["in_the_way"])
    named = "; ".join(
        f"pid {pid} ({name or 'no name'}" + (f", since {since:%Y-%m-%d %H:%M:%SZ})" if since else ")")
        for pid, name, since in found
    )
    problem = f"its tables are in use by transactions that do not end: {named or 'none that can be seen'}"
    if not left:
        raise Unavailable(f"{migration.file} was not applied: {problem}. Those before it are; migrate again later")
    if left == TRIES - 1:
        log.warning("%s waits, and appends go on: %s", migration.file, problem)
    yield Wait(PAUSE)


def _compare(migrations: list[Migration]) -> Plan[tuple[list[Migration], list[str]]]:
    """Those of these that the database lacks, and the files of those that it has beyond these."""
    [(present,)] = yield Query(SQL["present"])
    applied = (yield Query(SQL["applied"])) if present else []
    for (file, sha256), migration in zip(applied, migrations, strict=False):
        if (file, sha256) != (migration.file, migration.sha256):
            raise MigrationTampered(
                f"the database was migrated with {file} (SHA-256 {sha256[:12]}…), this package has {migration.file} "
                f"({migration.sha256[:12]}…) in its place: install the package that migrated it"
            )
    newer = [file for file, _ in applied[len(migrations) :]]
    for file in newer:
        needed = _NEEDS.search(file)
        if needed and needed[1] > migrations[-1].file[:4]:
            raise SchemaMismatch(
                f"the database is too new for this package (it has {file}, the package ends with "
                f"{migrations[-1].file}): upgrade auditledger"
            )
    return migrations[len(applied) :], newer
