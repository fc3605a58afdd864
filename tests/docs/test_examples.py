"""The examples in examples/."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import psycopg
import pytest

from examples.failed_logins import FailedLogins
from examples.subscriber import run
from ledger import Event, Ledger
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.stream.relay import Relay
from tests.support.views import START, project, rows

ROOT = Path(__file__).parents[2]


def test_failed_logins(ledger: Ledger, admin: psycopg.Connection) -> None:
    fate, expected = random.Random(7), dict[str, int]()
    events = []
    for _ in range(400):
        actor, action = f"user:{fate.randrange(5)}", fate.choice(["login.failed", "login.succeeded", "login.shown"])
        events.append(Event(actor, action, occurred_at=START))
        if action == "login.failed":
            expected[actor] = expected.get(actor, 0) + 1
        elif action == "login.succeeded":
            expected.pop(actor, None)
    ledger.append_many(events)
    project(ledger, [FailedLogins()])
    assert dict(admin.execute("select actor, failures from ledger_views.failed_logins").fetchall()) == expected
    live = rows(admin, "failed_logins")
    assert rebuild(ledger.settings, FailedLogins()) == 400
    assert rows(admin, "failed_logins") == live


def test_a_projection_of_ones_own_from_the_command_line(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(Event("user:1", "login.failed"))
    settings = ledger.settings
    urls = {"LEDGER_DATABASE_URL": settings.database_url or "", "LEDGER_REDIS_URL": settings.redis_url or ""}
    name = "examples.failed_logins:FailedLogins"
    for command in (["project", name, "--once"], ["replay", name]):
        line = [sys.executable, "-c", "from ledger.cli import main; main()", *command]
        done = subprocess.run(line, cwd=ROOT, env=os.environ | urls, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert admin.execute("select actor, failures from ledger_views.failed_logins").fetchall() == [("user:1", 1)]


def test_the_built_in_projections_are_found_by_name() -> None:
    assert [found.name for found in find_projections()] == [
        *("actor_activity", "resource_history"),
        *("resource_state", "timeline"),
    ]


def test_subscriber(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    run(ledger, print, idle=0.1)  # a new group begins with what comes next
    for number in range(3):
        ledger.append(
            Event(
                "user:1", "invoice.sent", "invoice", f"inv_{number}", after={"to": "ada@example.org", "total": number}
            )
        )
        ledger.append(Event("user:1", "invoice.paid", "invoice", f"inv_{number}"))
    servers = Connector(ledger.settings)
    Relay(servers).publish()
    servers.close()
    sent: list[EmailMessage] = []
    away = itertools.count()

    def send(mail: EmailMessage) -> None:
        if next(away) == 1:
            raise ConnectionRefusedError("the mail server is away")
        sent.append(mail)

    run(ledger, send, idle=0.5)
    assert [mail["Subject"] for mail in sent] == ["Your invoice inv_0", "Your invoice inv_2"]
    assert "entry 3 later" in capsys.readouterr().out
    run(ledger, send, idle=0.2)  # what was dealt with is not handed out again, what failed not yet
    assert len(sent) == 2
