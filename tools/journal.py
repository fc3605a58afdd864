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


def main() -> int:
    journal = SCHEMA / "journal.json"
    known = json.loads(journal.read_text()) if journal.exists() else []
    lines = [json.dumps(line, separators=(",", ":")) for line in known]
    previous = "0" * 64
    for number, file in enumerate(sorted(SCHEMA.glob("*.sql"))):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        line = json.dumps({"file": file.name, "sha256": digest, "previous": previous}, separators=(",", ":"))
        if number == len(lines):
            lines.append(line)
        elif lines[number] != line and "--unreleased" not in sys.argv:
            print(f"{file.name} differs from its line in the journal: add a new migration instead", file=sys.stderr)
            return 1
        lines[number] = line
        previous = hashlib.sha256(line.encode()).hexdigest()
    journal.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
