"""`make migration NAME=…`: writes the next migration, of what schema/declared/ says and the migrations do not make yet.

It counts once the migrations and the declaration agree, in everything that pg_dump tells; only then it is recorded in
the journal and in catalog.json. What the tool cannot write, it names: write that into the new file by hand, and run it
again. Without a NAME it checks: the migrations as they are, or with a newest file that is not in the journal yet.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from ledger.errors import LedgerError
from tools import agreement, catalog, changes, journal
from tools.declared import DeclarationError
from tools.dump import DumpFailed

NAME = re.compile(r"[a-z][a-z0-9_]*(\.needs_[0-9]{4})?")
AGREE = "The migrations make what schema/declared/ says."
DISAGREE = "The migrations do not make what schema/declared/ says (-: they do, +: it says):"
_DROPS = re.compile(r"drop (table|view|function|schema) |alter table .* drop column ", re.IGNORECASE)


class Refused(Exception):
    """Nothing was recorded; says why, and what to do."""


def make(schema: Path, name: str | None, server: str) -> str:
    """Writes or checks the newest migration, and records it; says what was done. server: see agreement.compared.

    Raises Refused, and what agreement.compared raises.
    """
    new = journal.unrecorded(schema)
    if len(new) > 1:
        names = ", ".join(file.name for file in new)
        raise Refused(f"only the newest migration may be missing in the journal, not {names}")
    if new and name not in (None, new[0].name[5:-4]):
        raise Refused(f"{new[0].name} is not done yet: complete or remove it, then make another")
    file = new[0] if new else _written(schema, name, server)
    if file is None:
        return AGREE
    _check(schema, file, server)
    journal.record(schema)
    with agreement.own_roles(server):
        catalog.record(schema, server)
    dropped = [f"\n    {line}" for line in file.read_text().splitlines() if _DROPS.match(line)]
    question = "\nDoes no older client need what it drops (CONTRIBUTING.md, 'A migration')?" if dropped else ""
    return f"{file.name} makes what schema/declared/ says, and is recorded in the journal.{question}{''.join(dropped)}"


def _written(schema: Path, name: str | None, server: str) -> Path | None:
    """The next migration; None where there is nothing to write. Raises Refused."""
    with agreement.compared(schema, server) as comparison:
        if not comparison.differences:
            return None
        if name is None:
            advice = "Write the next one with make migration NAME=what_it_does, or declare what they make."
            raise Refused(_listed(advice, comparison.differences))
        text = changes.script(schema / "declared", comparison.migrated, comparison.declared)
    newest = max(file.name for file in schema.glob("*.sql"))
    file = schema / f"{int(newest[:4]) + 1:04}_{name}.sql"
    file.write_text(text)
    return file


def _check(schema: Path, file: Path, server: str) -> None:
    """With the newest migration, `file`, as if it were recorded. Raises Refused, JournalMismatch."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(schema, Path(folder) / "schema"))
        journal.record(copy)
        try:
            with agreement.compared(copy, server) as comparison:
                differences = comparison.differences
        except LedgerError as error:
            raise Refused(f"{file.name} cannot be applied: {error}") from error
    if differences:
        raise Refused(_listed(f"Write the rest by hand into {file.name}, and run make migration again.", differences))


def _listed(advice: str, differences: list[str]) -> str:
    return "\n\n".join([DISAGREE, *differences, advice])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make migration", description=__doc__)
    parser.add_argument("name", nargs="?", help="what it does, as in 0007_what_it_does.sql")
    name = parser.parse_args().name or None
    if name is not None and NAME.fullmatch(name) is None:
        parser.error("a name is of small letters, digits and _; CONTRIBUTING.md says when it ends with .needs_NNNN")
    try:
        with catalog.scratch_server() as server:
            print(make(journal.SCHEMA, name, server))
    except (Refused, DeclarationError, DumpFailed, LedgerError, ModuleNotFoundError, journal.JournalMismatch) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
