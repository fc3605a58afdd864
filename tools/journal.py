"""Writes schema/journal.json: file name, SHA-256, and the hash of the line before, for each migration.

A line that has landed never changes; this only adds lines for new files. Run it with `make journal`. While a migration
is still being written, `--unreleased` lets its line change.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

SCHEMA = Path(__file__).parent.parent / "schema"


class JournalMismatch(Exception):
    """A migration differs from its line in the journal."""


def unrecorded(schema: Path) -> list[Path]:
    """The migrations that it does not have yet, in order."""
    known = {line["file"] for line in json.loads((schema / "journal.json").read_text())}
    return [file for file in sorted(schema.glob("*.sql")) if file.name not in known]


def record(schema: Path, *, unreleased: bool = False) -> None:
    """Adds a line for each new file. unreleased: changes lines too. Raises JournalMismatch."""
    journal = schema / "journal.json"
    known = json.loads(journal.read_text()) if journal.exists() else []
    lines = [json.dumps(line, separators=(",", ":")) for line in known]
    previous = "0" * 64
    for number, file in enumerate(sorted(schema.glob("*.sql"))):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        line = json.dumps({"file": file.name, "sha256": digest, "previous": previous}, separators=(",", ":"))
        if number == len(lines):
            lines.append(line)
        elif lines[number] != line and not unreleased:
            raise JournalMismatch(f"{file.name} differs from its line in the journal: add a new migration instead")
        lines[number] = line
        previous = hashlib.sha256(line.encode()).hexdigest()
    journal.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> int:
    try:
        record(SCHEMA, unreleased="--unreleased" in sys.argv)
    except JournalMismatch as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
