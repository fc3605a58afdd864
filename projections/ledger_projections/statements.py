"""What the views share: their SQL, from the files beside them, and checks of a caller's arguments."""

from __future__ import annotations

from pathlib import Path

from ledger import UsageError


def statements(stem: str) -> dict[str, str]:
    """The named parts of `<stem>.sql`: each begins with a line `-- name: <its name>`."""
    parts = Path(__file__).with_name(f"{stem}.sql").read_text(encoding="utf-8").split("-- name: ")[1:]
    return {name.strip(): sql.strip().rstrip(";") for name, _, sql in (part.partition("\n") for part in parts)}


def checked_text(name: str, text: str) -> str:
    """Returns the text. Raises UsageError if Postgres cannot store it, so that no entry can have it."""
    if "\0" in text:
        raise UsageError(f"{name}: contains U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: contains a lone surrogate") from None
    return text


def checked_limit(limit: int) -> int:
    """Returns the limit. Raises UsageError below 1."""
    if limit < 1:
        raise UsageError(f"limit: must be at least 1, not {limit}")
    return limit
