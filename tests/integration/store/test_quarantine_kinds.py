"""Quarantined entries of every kind: signer, verify, prove, export and bundles agree on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import ChainBroken, Ledger, LedgerError
from ledger.checkpoints.keys import create_key
from ledger.checkpoints.signer import Checkpointer
from ledger.drivers.pools import Connector
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.canonical import body_bytes, digest, envelope_from, uuid_text
from ledger.format.chain import extend
from ledger.format.times import timestamp
from ledger.store.columns import COLUMNS
from ledger.store.drafts import prepare
from ledger.store.entry_rows import row_params
from ledger.store.ledgers import SQL
from ledger.tlog.note import Verifier
from ledger.verify.checkpoints import Trust
from tests.support.bad_entries import NO_RULES, WHO, false_hash, said, workers
from tests.support.helpers import event, events
from tests.support.logins import Logins
from tests.support.signed_checkpoints import Superuser

ROW = "where ledger_id = 1 and position ="
KINDS = {
    "actor": f"update ledger.audit_logs set actor = 'user:1' {ROW}",
    "hash": f"update ledger.audit_logs set hash = decode(repeat('ab', 32), 'hex') {ROW}",
    "prev": f"update ledger.audit_logs set prev_hash = decode(repeat('ab', 32), 'hex') {ROW}",
    "body": f"update ledger.audit_logs set after = '1' {ROW}",
    "missing": f"delete from ledger.audit_logs {ROW}",
    "infinity": f"update ledger.audit_logs set occurred_at = 'infinity' {ROW}",
    "past": f"update ledger.audit_logs set recorded_at = '2001-01-01' {ROW}",
}
PLACES = {
    "one of each": {3: "actor", 7: "hash", 11: "prev", 15: "body", 19: "missing", 23: "infinity", 27: "past"},
    "in a row": {100: "actor", 101: "hash", 102: "missing", 103: "prev", 104: "body", 105: "missing", 106: "missing"},
    "over borders": {1: "actor", 255: "actor", 256: "hash", 257: "missing", 258: "prev", 512: "missing", 513: "hash"},
    "from the first on": {1: "missing", 2: "hash"},
    "the first changed": {1: "prev", 2: "infinity", 3: "body"},
}


@contextmanager
def signing(ledger: Ledger, key: Path) -> Iterator[Checkpointer]:
    servers = Connector(ledger.settings)
    try:
        yield Checkpointer(servers, [key], new_state=True)
    finally:
        servers.close()


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("signed_before", [False, True], ids=["unsigned", "signed"])
def test_signed_proved_exported(
    ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, places: dict[int, str], signed_before: bool
) -> None:
    """signed_before: they were changed after they were signed, and keep the leaf that they had."""
    ledger.append_many(events(520, 1))
    vkey = create_key(tmp_path / "main.key", "example.com/main").vkey
    trust = Trust((Verifier.parse(vkey),))
    expected = [(position, "quarantined") for position in sorted(places)]
    with signing(ledger, tmp_path / "main.key") as signer:
        notes = [signer.checkpoint().note] if signed_before else []
        admin.execute(NO_RULES)
        for position, kind in places.items():
            Superuser(admin).run(f"{KINDS[kind]} {position}")
        ledger.append_many(events(5))
        for position in places:
            ledger.quarantine(position, *WHO)
        for _ in range(2):
            made = signer.checkpoint()
            assert made.size == ledger.tail().position
            notes.append(made.note)
            ledger.append_many(events(300))
    report = ledger.verify(checkpoints=notes, keys=[vkey])
    assert [each for each in said(report) if each[1] != "quarantined"] == []
    assert said(report) == expected
    for position in (50, 400, 520):
        assert ledger.prove(position).note == notes[-1]
    for position, kind in places.items():  # of some the leaf is still that of what stands there
        if kind == "missing":
            with pytest.raises(LedgerError, match="no entry"):
                ledger.prove(position)
        elif kind in ("actor", "infinity", "prev", "past"):
            with pytest.raises(LedgerError, match="cannot be proven"):
                ledger.prove(position)
        elif kind == "body":
            # With nothing behind it to go on from, its leaf is not its envelope's; one that it had before, it keeps.
            lost = places.get(position + 1) == "missing" and not signed_before
            with pytest.raises(LedgerError, match="cannot be proven" if lost else "body hash mismatch"):
                ledger.prove(position, with_body=True)
    with signing(ledger, tmp_path / "main.key") as signer:
        signer.checkpoint()
    export(ledger.settings, tmp_path / "bundle")
    assert said(verify_bundle(tmp_path / "bundle", trust=trust)) == expected
    given = [(f"given {number}", note) for number, note in enumerate(notes)]
    assert said(verify_bundle(tmp_path / "bundle", checkpoints=given, trust=trust)) == expected
    (tmp_path / "main.key.state").unlink()
    with signing(ledger, tmp_path / "main.key") as signer:
        ledger.append(event(1))
        assert signer.checkpoint().size == ledger.tail().position


BREAKING: dict[str, dict[str, Any]] = {
    "a long actor": {"actor": "x" * 300},
    "no action": {"action": ""},
    "a line break": {"after": '{"a":\n1}'},
    "a lone surrogate": {"after": '{"a":"\\ud800"}'},
    "thousands of levels": {"after": "[" * 3000 + "]" * 3000},
    "a large body": {"after": '"' + "x" * 300_000 + '"'},
    "an unknown own action": {"action": "ledger.unknown"},
    "an own action's form": {
        "action": "ledger.entry_erased",
        "resource_type": "ledger.entry",
        "resource_id": "abc",
        "metadata": '{"reason":"x"}',
    },
}


def insert_true(ledger: Ledger, admin: psycopg.Connection, **changes: Any) -> None:
    """As a writer could before the database knew the rules: with a hash that is true of what it says."""
    draft = prepare(event(5), "main")
    [(now,)] = admin.execute("select clock_timestamp()").fetchall()
    [link] = extend(ledger.tail(), [draft], now)
    row = dict(zip(("ledger_id", *COLUMNS), row_params(1, link), strict=True)) | changes
    before, after, metadata = (
        None if row[name] is None else row[name].encode() for name in ("before", "after", "metadata")
    )
    row["body_hash"] = digest(body_bytes(before, after, metadata, row["salt"]))
    row["hash"] = digest(
        envelope_from(
            "main", row["position"], uuid_text(row["id"].bytes), timestamp(row["recorded_at"]),
            timestamp(row["occurred_at"]), row["actor"], row["actor_type"], row["action"], row["resource_type"],
            row["resource_id"], row["body_hash"], row["prev_hash"],
        )
    )  # fmt: skip
    admin.execute(NO_RULES)
    admin.execute("alter table ledger.audit_logs disable trigger own_actions")
    admin.execute(SQL["insert"], [*row.values(), row["position"], row["id"], row["hash"]])
    admin.execute("alter table ledger.audit_logs enable always trigger own_actions")


@pytest.mark.parametrize("changes", BREAKING.values(), ids=BREAKING)
def test_true_but_against_a_rule(
    ledger: Ledger, admin: psycopg.Connection, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Readers have it, because it is true; what is signed waits until it is on record."""
    ledger.append_many(events(4, 1))
    insert_true(ledger, admin, **changes)
    with Ledger(ledger.settings) as again:
        again.append_many(events(3, 6))
    create_key(tmp_path / "main.key", "example.com/main")
    with workers(ledger) as (servers, relay):
        relay.publish()
        assert relay.stopped == []
        signer = Checkpointer(servers, [tmp_path / "main.key"])
        with pytest.raises(ChainBroken, match=r"entry 5: rule_broken: .* quarantine 5 --actor "):
            signer.checkpoint()
        assert said(ledger.verify()) == [(5, "rule_broken")]
        assert ledger.quarantine(5, *WHO).position == 9
        assert signer.checkpoint().size == 9
    assert [entry.position for entry in ledger.follow(0, idle=1)] == list(range(1, 10))
    assert said(ledger.verify()) == [(5, "quarantined")]
    export(ledger.settings, tmp_path / "bundle")
    assert said(verify_bundle(tmp_path / "bundle")) == [(5, "quarantined")]


def test_a_record_with_a_false_hash_is_refused(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    """An admin who says that the chain goes on otherwise would make the entry after it one that does not hold."""
    ledger.append_many(events(4, 1))
    false_hash(ledger, login("ledger_writer"))
    with Ledger(ledger.settings) as again:
        again.append_many(events(3, 6))
    true = ledger.quarantine(5, *WHO)
    [(metadata,)] = admin.execute(
        "select metadata from ledger.audit_logs where position = %s", (true.position,)
    ).fetchall()
    with Ledger.open(database_url=login("ledger_admin")) as hostile:
        for forged in ({"hash": "00" * 32}, {"hash": "ab" * 32}):
            said_ = prepared(metadata | forged)
            with pytest.raises(Exception, match="goes on from entry 5 by another hash"):
                hostile._record_own(said_)
        junk = hostile._record_own(prepared(metadata | {"row": "ab" * 32}))
        assert junk.position == true.position + 1
    assert ledger.quarantine(5, *WHO).position == true.position + 2, "the newest counts"
    assert said(ledger.verify()) == [(5, "quarantined")]


def prepared(metadata: dict[str, Any]) -> Any:
    return event(0, action="ledger.entry_quarantined", resource_type="ledger.entry", resource_id="5", actor="user:ops",
                 after=None, metadata=metadata)  # fmt: skip
