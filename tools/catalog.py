"""Writes schema/catalog.json: what the migrations make, for `verify` to compare databases with. `make journal` runs it.

A dump that is restored words some definitions otherwise; so it reads them from a restored database too.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from ledger import embedded, testing
from ledger.drivers.run import drive
from ledger.errors import LedgerError
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.verify import catalog
from tools import dump, journal

_META_COMMAND = re.compile(r"^\\.*\n", re.MULTILINE)


@contextmanager
def scratch_server() -> Iterator[str]:
    """The URL of a superuser on a server that is removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="auditledger-scratch-"))
    try:
        yield embedded.start(home).database_url
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


def made(schema: Path, server: str) -> str:
    """The text of catalog.json for these migrations. server: a superuser's URL.

    Raises MigrationTampered, DumpFailed, and what migrations may raise.
    """
    with testing.database(server) as migrated, testing.database(server, template="template0") as restored:
        migrate(Settings(database_url=migrated), folder=schema)
        with psycopg.connect(restored, autocommit=True) as connection:
            connection.execute(_META_COMMAND.sub("", dump.schema_of(migrated)).encode())
        facts, again = _read(migrated), _read(restored)
    if facts.keys() != again.keys():
        raise dump.DumpFailed(f"a restored dump has other objects: {sorted(facts.keys() ^ again.keys())}")
    for name, fact in facts.items():
        for key in fact.keys() | again[name].keys():
            first, second = fact.get(key), again[name].get(key)
            if first != second:
                fact[key] = [str(first), str(second)]
    lines = [json.dumps([*name, fact], ensure_ascii=False, separators=(",", ":")) for name, fact in facts.items()]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _read(url: str) -> catalog.Facts:
    with psycopg.connect(url) as connection:
        return drive(catalog.read(), connection)


def record(schema: Path, server: str) -> None:
    """Writes it. Raises what `made` raises."""
    (schema / catalog.FILE).write_text(made(schema, server))


def main() -> int:
    try:
        with scratch_server() as server:
            record(journal.SCHEMA, server)
    except (dump.DumpFailed, LedgerError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
