"""verify and export."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from ledger import Ledger
from tests.support.cli import Cli, cli_of, run
from tests.support.helpers import events

FORGE = """
begin;
alter table ledger.audit_logs disable trigger user;
update ledger.audit_logs set after = '{"number":99}' where position = 3;
delete from ledger.audit_logs where position = 5;
alter table ledger.audit_logs enable always trigger move_tail;
alter table ledger.audit_logs enable always trigger granted_ledger;
alter table ledger.audit_logs enable always trigger append_only;
alter table ledger.audit_logs enable always trigger only_bodies;
alter table ledger.audit_logs enable always trigger own_actions;
commit
"""


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    ledger.append_many(events(10))
    return cli_of(ledger, redis=False)


def test_verify(cli: Cli, ledger: Ledger) -> None:
    ran = cli.well("verify", "--json")
    seconds = ran.json["seconds"]
    assert ran.json == {
        "ledger": "main", "ok": True, "first": 1, "last": 10, "entries": 10, "head": ledger.tail().hash.hex(),
        "findings": [], "seconds": seconds, "notes": [], "privileged": ran.json["privileged"],
    }  # fmt: skip
    names = ["ledger", "ok", "first", "last", "entries", "head", "findings", "seconds", "notes", "privileged"]
    assert list(ran.json) == names
    assert cli.well("verify", "--from", "4", "--json").json["entries"] == 7
    assert cli.well("verify").out.startswith("OK, ledger main: 10 entries, 1 to 10; head ")
    assert cli("verify", "--from", "12").code == 2


def test_what_does_not_verify_is_named_and_exit_1(cli: Cli, admin: psycopg.Connection) -> None:
    admin.execute(FORGE)
    ran = cli("verify", "--json")
    assert (ran.code, ran.err, ran.json["ok"]) == (1, "", False)
    found = [(finding["position"], finding["kind"]) for finding in ran.json["findings"]]
    assert found == [(3, "body_mismatch"), (5, "missing_entry")]
    ran = cli("verify")
    first, second, last = ran.out.splitlines()
    assert ran.code == 1
    assert first.split()[:2] == ["3", "body_mismatch"] and second.split()[:2] == ["5", "missing_entry"]
    assert last.startswith("DOES NOT VERIFY, ledger main: 9 entries") and "2 findings" in last


def test_export_and_verify_a_bundle(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle"
    manifest = cli.well("export", str(bundle), "--json").json
    assert (manifest["ledger"], manifest["first"], manifest["last"], manifest["entries"]) == ("main", 1, 10, 10)
    assert cli("export", str(bundle)).code == 2
    assert cli.well("export", str(tmp_path / "part"), "--from", "6").out.startswith("Exported 5 entries of ledger main")
    monkeypatch.chdir(tmp_path)
    assert run("verify", "--bundle", "bundle", "--json").json["entries"] == 10
    assert run("verify", "--bundle", "part").out.startswith("OK, ledger main: 5 entries, 6 to 10")
    bodies = bundle / "bodies.jsonl"
    bodies.write_bytes(bodies.read_bytes().replace(b'"number":4', b'"number":5', 1))
    ran = run("verify", "--bundle", "bundle")
    assert ran.code == 1 and ran.out.split()[:2] == ["5", "body_mismatch"]
    for arguments in (["--bundle", "none"], ["--bundle", "."], ["--bundle", "bundle", "--from", "2"]):
        ran = run("verify", *arguments)
        assert ran.code == 2 and ran.error and not ran.out
    assert not (tmp_path / ".ledger").exists()
