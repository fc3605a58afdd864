"""Loads the migrations, checked against the journal with the hash of each (schema/journal.json)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from ledger.errors import MigrationTampered

NEEDS = re.compile(r"\.needs_(\d{4})\.sql")


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


def load(folder: Path | None = None) -> list[Migration]:
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
