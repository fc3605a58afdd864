"""SQL and Lua from the files that lie beside the module that owns them."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def statements(file: Path) -> dict[str, str]:
    """The named statements of a .sql file: each begins with a line `-- name: <its name>`."""
    parts = file.read_text(encoding="utf-8").split("-- name: ")[1:]
    return {name.strip(): sql.strip().rstrip(";") for name, _, sql in (part.partition("\n") for part in parts)}


def sql(module: str) -> dict[str, str]:
    """The statements of the .sql file beside a module, which gives its `__file__`."""
    return statements(Path(module).with_suffix(".sql"))


def lua(module: str, *names: str) -> str:
    """One script of the .lua files beside a module (its `__file__`), in order: functions first, then their caller."""
    return "".join(Path(module).with_name(f"{name}.lua").read_text(encoding="utf-8") for name in names)
