"""capture install, status, diff, backfill, remove; and what doctor and verify say about captured tables."""

from __future__ import annotations

import psycopg
import pytest

from ledger import Ledger
from tests.support.captured import INVOICES, sealed, taken
from tests.support.cli import Cli, cli_of
from tests.support.logins import Logins


@pytest.fixture
def cli(ledger: Ledger, admin: psycopg.Connection) -> Cli:
    admin.execute(INVOICES)
    admin.execute("insert into invoices select n, n from generate_series(1, 25) as n")
    return cli_of(ledger)


def test_a_life(cli: Cli, admin: psycopg.Connection, ledger: Ledger) -> None:
    assert cli("capture", "status").out == ""
    cli.well(
        "capture", "install", "public.invoices", "--key", "id", "--action", "invoice.{op}",
        "--resource-type", "invoice", "--redact", "status", "--when", "total > 5", "--no-actor", "unknown",
    )  # fmt: skip
    status = cli.well("capture", "status", "--json").json
    assert (status["table"], status["ledger"], status["backfilled"], status["problems"]) == (
        "public.invoices",
        "main",
        False,
        [],
    )
    assert status["policy"]["redact"] == ["status"] and "deny" not in status["policy"]
    assert "not backfilled" in cli.well("capture", "status").out
    assert cli("capture", "diff").code == 0
    assert cli.well("capture", "backfill", "invoices", "--batch", "10", "--json").json["rows"] == 25
    assert cli.well("capture", "backfill", "invoices", "--json").json["rows"] == 0
    found = taken(admin)
    assert [each.key for each in found] == [str(n) for n in range(6, 26)]
    assert found[0].action == "invoice.backfilled" and found[0].after["status"] == {"$redacted": True}
    assert cli.well("capture", "backfill", "invoices", "--again", "--json").json["rows"] == 25
    assert len(taken(admin)) == 20
    admin.execute("alter table invoices disable trigger user")
    broken = cli("capture", "status", "--json")
    assert broken.code == 1 and len(broken.json["problems"]) == 4
    assert cli("capture", "diff", "invoices").code == 1
    assert "capture of public.invoices" in cli("doctor").out
    cli.well("capture", "install", "invoices")
    assert cli("capture", "diff").code == 0 and "capture of" not in cli("doctor").out
    assert ledger.verify().ok
    cli.well("capture", "remove", "invoices")
    admin.execute("insert into invoices values (99, 99)")
    assert taken(admin) == []
    assert admin.execute("select count(*) from pg_trigger where tgname ~ '^ledger_capture'").fetchone() == (0,)


def test_backfill_goes_on_where_it_was_interrupted(cli: Cli, admin: psycopg.Connection) -> None:
    admin.execute("create table pairs (a text, b timestamptz, primary key (a, b))")
    admin.execute("insert into pairs select 'x' || n % 3, to_timestamp(n) from generate_series(1, 20) as n")
    cli.well("capture", "install", "pairs")
    admin.execute("set timezone = 'Asia/Kolkata'")
    for _ in range(2):
        admin.execute("select ledger.backfill_capture('pairs', 7)")
    with admin.transaction(force_rollback=True):
        admin.execute("select ledger.backfill_capture('pairs', 3)")
    cli.well("capture", "backfill", "pairs", "--batch", "4")
    keys = [each.key for each in taken(admin)]
    assert len(keys) == len(set(keys)) == 20 and keys == sorted(keys)


def test_the_statements_for_a_migration(cli: Cli, admin: psycopg.Connection, ledger: Ledger) -> None:
    options = ("--when", "status <> 'it''s \\ done' and total % 2 = 0", "--digest", "status")
    text = cli.well("capture", "install", "public.invoices", *options, "--sql").out
    assert taken(admin) == []
    for setting in ("on", "off"):
        admin.execute(f"set standard_conforming_strings = {setting}")
        admin.execute(text.encode())
    admin.execute("insert into invoices values (50, 50), (51, 51)")
    assert [each.key for each in taken(admin)] == ["50"]
    admin.execute(cli.well("capture", "remove", "public.invoices", "--sql").out.encode())
    assert cli("capture", "status").out == ""
    sealed(ledger)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("invoices", "--key", "nothing"), "public.invoices has no column nothing"),
        (("invoices", "--key", "status"), "the key column status may be NULL"),
        (("nothing",), 'relation "nothing" does not exist'),
        (("invoices", "--ledger", "other"), "there is no ledger 'other'"),
        (("invoices", "--when", "random() > 0"), "the condition uses random()"),
        (("invoices", "--when", "totl > 0"), 'the condition: column "totl" does not exist'),
        (("invoices", "--action", "invoice.{opp}"), "action may hold '{op}' and no other braces"),
        (("invoices", "--action", "ledger.{op}"), 'actions that begin with "ledger."'),
        (("pg_views",), "is no table of"),
    ],
)
def test_mistakes(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    ran = cli("capture", "install", *arguments)
    assert ran.code == 2 and message in ran.error, ran


def test_another_policy_is_shown(cli: Cli) -> None:
    """Options that are not given again have their defaults: a redaction that ends is seen."""
    install = ("capture", "install", "invoices")
    assert cli.well(*install, "--redact", "status").out == "Captured invoices\n"
    assert cli.well(*install, "--redact", "status").out == "Captured invoices\n"
    _, before, now = cli.well(*install).out.splitlines()
    assert before.startswith("  before") and "redact status" in before
    assert now.startswith("  now") and "redact" not in now


def test_somebody_elses_table(cli: Cli, login: Logins) -> None:
    ran = cli("--database-url", login("ledger_admin"), "capture", "install", "invoices")
    assert ran.code == 2 and "(The owner of a table, or a superuser, installs its capture.)" in ran.error


def test_remove_after_the_table_is_gone(cli: Cli, admin: psycopg.Connection) -> None:
    cli.well("capture", "install", "invoices")
    admin.execute("drop table invoices")
    broken = cli("capture", "status", "--json")
    assert broken.code == 1 and broken.json["problems"] == ["the table is gone"]
    cli.well("capture", "remove", broken.json["table"])
    assert cli("capture", "status").code == 0
