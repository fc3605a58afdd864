"""skip, retry, project --skip-after: entries, output and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Event, Ledger
from tests.support.cli import Cli, cli_of
from tests.support.helpers import checked, events
from tests.support.logins import Logins
from tests.support.projections import OWN

WHO = ("--actor", "user:ops", "--reason", "ticket 12")


@pytest.fixture
def cli(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Entry 3 is poison to the projection `counting`, which has come to it."""
    (tmp_path / "my_views.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    ledger.append_many([*events(2), Event("user:1", "bad.action", after="s3cret"), *events(2)])
    cli = cli_of(ledger, redis=False)
    ran = cli("project", "my_views:Counting", "--once")
    assert (ran.code, ran.out) == (70, "Projected 2 entries\n")
    assert (
        "error: projection 'counting' failed at entry 3 of ledger 'main': ValueError in apply, my_views.py" in ran.err
    )
    assert "s3cret" not in ran.err
    return cli


def view(cli: Cli) -> Any:
    [found] = cli.well("status", "--json").json["ledgers"][0]["projections"]
    return found


def counted(admin: psycopg.Connection) -> list[int]:
    return [at for (at,) in admin.execute("select position from ledger_views.counting order by 1")]


def test_skip_and_retry(cli: Cli, ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    ran = cli.well("skip", "counting", "3", *WHO, "--json")
    assert ran.json["position"] == 6 and "Projection counting skips entry 3; 'auditledger retry" in ran.err
    assert cli.well("skip", "my_views:Counting", "3", *WHO).out.startswith("position 6  id ")
    cli.well("project", "my_views:Counting", "--once")
    assert (counted(admin), view(cli)["skipped"]) == ([1, 2, 4, 5, 6], 1)

    ran = cli("retry", "my_views:Counting", "3", "--actor", "user:ops")
    assert (ran.code, ran.out) == (70, "") and "failed at entry 3 of ledger 'main': ValueError" in ran.err
    (tmp_path / "mended").touch()
    ran = cli.well("retry", "my_views:Counting", "3", "--actor", "user:ops")
    assert ran.out == "Rebuilt counting with entry 3, from 6 entries\n"
    assert (counted(admin), view(cli)["skipped"]) == ([1, 2, 3, 4, 5, 6], 0)
    assert checked(ledger)[-1].metadata == {"reason": "to be applied after all"}
    cli.well("project", "my_views:Counting", "--once")
    assert cli.well("verify", "--json").json["ok"]
    cli.well("project", "--once")
    assert [each["action"] for each in cli.well("history", "ledger.skip:counting:3", "--json").jsons] == [
        *("ledger.entry_skipped", "ledger.entry_retried")
    ]


def test_parked_by_policy(cli: Cli, ledger: Ledger, admin: psycopg.Connection) -> None:
    assert view(cli)["standstill"]["tries"] == 1
    ran = cli.well("project", "my_views:Counting", "--once", "--skip-after", "2", "--json")
    assert "skips entry 3 of ledger 'main' after 2 attempts" in ran.err and "s3cret" not in ran.err
    assert counted(admin) == [1, 2, 4, 5, 6]
    assert checked(ledger)[-1].actor == "system:projector"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("skip", "counting", "4", *WHO), "projection counting is not blocked at entry 4: nothing was recorded"),
        (("skip", "counting", "99", *WHO), "there is no entry 99"),
        (("skip", "counting", "0", *WHO), "is not a position: a whole number from 1"),
        (("skip", "Counting", "3", *WHO), "projection: must be a projection's name"),
        (("skip", "nowhere:Counting", "3", *WHO), "cannot be loaded"),
        (("skip", "counting", "3", "--actor", "user:ops"), "Missing option '--reason'"),
        (("retry", "my_views:Counting", "3", *WHO), "entry 3 is not skipped by projection 'counting'"),
        (("retry", "counting", "3", *WHO), "there is no projection 'counting'"),
        (("project", "--once", "--skip-after", "0"), "0 is not in the range"),
    ],
)
def test_wrong_use(cli: Cli, ledger: Ledger, arguments: tuple[str, ...], text: str) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err
    assert len(checked(ledger)) == 5


def test_who_may(cli: Cli, ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """An admin and the workers may skip; to take it back is the workers', who rebuild. Nobody else."""
    as_role = {role: Cli("--database-url", login(f"ledger_{role}")) for role in ("writer", "reader", "eraser", "admin")}
    worker = Cli("--database-url", login("ledger_projector"))
    for role in ("writer", "reader", "eraser"):
        ran = as_role[role]("skip", "counting", "3", *WHO)
        assert ran.code == 2 and "may not do that: permission denied" in ran.err, role
    assert as_role["admin"].well("skip", "counting", "3", *WHO, "--json").json["position"] == 6
    assert worker.well("skip", "counting", "3", *WHO, "--json").json["position"] == 6
    for role, cli_of_role in as_role.items():
        ran = cli_of_role("retry", "my_views:Counting", "3", *WHO)
        assert ran.code == 2 and ("permission denied" in ran.err or "is not skipped" in ran.err), role
    for role in ("writer", "reader", "eraser", "admin"):
        with psycopg.connect(as_role[role].urls[1], autocommit=True) as connection:
            for statement in (
                "select ledger.retry_entry(null)",
                "insert into ledger.skips values (1, 'counting', 4, 9, null)",
                "update ledger.skips set retried = 9",
                "update ledger.projections set failed_position = null",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
    with psycopg.connect(worker.urls[1], autocommit=True) as connection:
        for statement in ("insert into ledger.skips values (1, 'a', 4, 9, null)", "delete from ledger.skips"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    assert as_role["reader"].well("verify", "--json").json["ok"]
    shown = as_role["reader"].well("status", "--json").json["ledgers"][0]["projections"]
    assert [each["skipped"] for each in shown] == [1]
    assert len(checked(ledger)) == 6
