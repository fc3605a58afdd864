"""Erasures and legal holds in the database: atomic, and only through the functions that record them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from ledger import ErasureRefused, Event, HoldRefused, InvalidEvent, Ledger, Plan, UnderLegalHold
from ledger.drivers.run import drive
from ledger.errors import IdempotencyConflict
from ledger.events import Entry, Tail
from ledger.format.actions import KEY_ROTATED
from ledger.format.canonical import Draft
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from ledger.store.ledgers import LedgerRef
from ledger.store.own_actions import erasing, holding, record_own
from tests.support.api import Api
from tests.support.erasure import CHANGE, OWN, call, refused
from tests.support.findings import places
from tests.support.helpers import checked, erase, event, events, race


@pytest.fixture
def roles() -> tuple[str, ...]:
    """Of the logins behind `api`: an application's that erases too."""
    return ("ledger_writer", "ledger_reader", "ledger_eraser")


def said(entry: Entry) -> tuple[Any, ...]:
    return entry.actor, entry.action, entry.resource_type, entry.resource_id, entry.metadata


def bodies(ledger: Ledger | Api) -> list[bool]:
    """Of each entry, whether it has its body."""
    return [not entry.erased for entry in ledger.read()]


# ------------------------------------------------------------------------------------------------------------ erasure


def test_an_entry_is_erased_and_another_says_so(api: Api, ledger: Ledger) -> None:
    api.append_many(events(3))
    receipt = api.erase(2, "user:dpo", "Art. 17, case 4711")
    entries = checked(api)
    assert bodies(api) == [True, False, True, True]
    assert (entries[1].before_json, entries[1].after_json, entries[1].metadata_json) == (None, None, None)
    assert receipt.position == 4
    assert receipt.hash == entries[3].hash
    assert said(entries[3]) == (
        "user:dpo", "ledger.entry_erased", "ledger.entry", "2", {"reason": "Art. 17, case 4711"}
    )  # fmt: skip
    assert ledger.verify().findings == []
    assert api.append(event(9)).position == 5  # the tail that this process knows is the right one


def test_erasing_again(api: Api) -> None:
    """The first receipt for whoever says the same again; anybody else is told who was first."""
    api.append_many(events(1))
    first = api.erase(1, "user:dpo", "asked for")
    assert api.erase(1, "user:dpo", "asked for") == first
    with pytest.raises(ErasureRefused, match=r"ledger\.entry:1 was erased already, by user:dpo at position 2"):
        api.erase(1, "user:dpo", "another reason")
    with pytest.raises(ErasureRefused, match="by user:dpo"):
        api.erase(1, "user:other", "asked for")
    assert len(checked(api)) == 2


def test_what_cannot_be_erased(api: Api) -> None:
    api.append_many(events(1))
    for position in (2, 99, 0, -1, 10**30):
        with pytest.raises(ErasureRefused, match=rf"there is no entry {position}\b"):
            api.erase(position, "user:dpo", "asked for")
    api.erase(1, "user:dpo", "asked for")
    with pytest.raises(ErasureRefused, match=r"entry 2 is the ledger's own \(ledger.entry_erased\)"):
        api.erase(2, "user:dpo", "asked for")
    wrong: Any = "1"
    for position, actor, reason in (
        (1, "", "x"),
        (1, "user:dpo", " "),
        (1, "user:dpo", "\0"),
        (wrong, "user:dpo", "x"),
    ):
        with pytest.raises(InvalidEvent):
            api.erase(position, actor, reason)
    assert len(checked(api)) == 2


def test_a_body_that_was_removed_without_a_trace_is_not_excused_by_an_erasure(
    ledger: Ledger, admin: psycopg.Connection
) -> None:
    ledger.append_many(events(2))
    admin.execute("alter table ledger.audit_logs disable trigger append_only")
    admin.execute("update ledger.audit_logs set after = null, salt = null where position = 1")
    admin.execute("alter table ledger.audit_logs enable always trigger append_only")
    with pytest.raises(ErasureRefused, match="the body of entry 1 is gone, and no entry says who erased it"):
        ledger.erase(1, "user:dpo", "asked for")
    [finding] = ledger.verify().findings
    assert (finding.position, finding.kind) == (1, "body_missing")


def test_erasing_while_others_append_and_erase(ledger: Ledger) -> None:
    ledger.append_many(events(20))

    def eraser(positions: range) -> Callable[[], None]:
        def run() -> None:
            for position in positions:
                ledger.erase(position, "user:dpo", "asked for")

        return run

    def appender() -> None:
        for number in range(40):
            ledger.append(event(number))

    with Ledger(ledger.settings) as other:

        def elsewhere() -> None:
            for position in range(1, 11):
                other.erase(position, "user:dpo", "asked for")

        race(eraser(range(1, 11)), eraser(range(5, 16)), elsewhere, appender)
    assert bodies(ledger)[:20] == [False] * 15 + [True] * 5
    entries = checked(ledger)
    assert len(entries) == 20 + 40 + 15, "an entry was erased twice"
    assert ledger.verify().ok


@pytest.mark.parametrize("effects", range(4))
def test_a_crash_in_an_erasure_leaves_both_or_nothing(ledger: Ledger, effects: int) -> None:
    """After each of its effects: the lock, the function, the commit."""
    ledger.append_many(events(2))
    draft = prepare(erasing(1, "user:dpo", "asked for"), "main", own=True)

    def cut_short(plan: Plan[Any]) -> Plan[None]:
        effect = next(plan)
        try:
            for _ in range(effects):
                effect = plan.send((yield effect))
        except StopIteration:
            pass

    with psycopg.connect(ledger.settings.database_url or "", autocommit=True) as connection:
        drive(cut_short(record_own(Appender(ledger.ref), draft)), connection)
        connection.close()
    assert bodies(ledger) == ([False, True, True] if effects == 3 else [True, True])
    assert ledger.verify().ok
    # The process that comes after it says the same again.
    assert ledger.erase(1, "user:dpo", "asked for").position == 3
    assert len(checked(ledger)) == 3


def test_an_erasure_whose_outcome_was_lost_is_settled(ledger: Ledger, admin: psycopg.Connection) -> None:
    """The function finds the entry of the first try by its id."""
    ledger.append_many(events(2))
    draft = prepare(erasing(1, "user:dpo", "asked for"), "main", own=True)
    first = drive(record_own(Appender(ledger.ref), draft), admin)
    assert drive(record_own(Appender(ledger.ref), draft), admin) == first


# ---------------------------------------------------------------------------------------------------------- legal hold


@pytest.mark.parametrize("held", [("invoice", "inv_7"), 2], ids=["resource", "entry"])
def test_a_legal_hold_refuses_erasure_until_released(api: Api, ledger: Ledger, held: tuple[str, str] | int) -> None:
    about = {"resource_type": "invoice", "resource_id": "inv_7"}
    api.append(event(1))
    api.append(event(2, **about))
    placed = api.hold(held, "user:counsel", "case 12")
    for _ in range(2):
        with pytest.raises(UnderLegalHold, match=f"entry 2 is under the legal hold of entry {placed.position}"):
            api.erase(2, "user:dpo", "asked for")
    api.erase(1, "user:dpo", "asked for")  # nothing holds this one
    released = api.release(held, "user:counsel", "case closed")
    api.erase(2, "user:dpo", "asked for")
    target = held if isinstance(held, tuple) else ("ledger.entry", "2")
    assert [said(entry) for entry in checked(api) if entry.position in (placed.position, released.position)] == [
        ("user:counsel", "ledger.hold_placed", *target, {"reason": "case 12"}),
        ("user:counsel", "ledger.hold_released", *target, {"reason": "case closed"}),
    ]
    assert ledger.verify().findings == []


def test_holds_one_at_a_time(api: Api) -> None:
    resource = ("invoice", "inv_7")
    with pytest.raises(HoldRefused, match="there is no hold on invoice:inv_7"):
        api.release(resource, "user:counsel", "over")
    first = api.hold(resource, "user:counsel", "case 12")
    assert api.hold(resource, "user:counsel", "case 12") == first
    with pytest.raises(HoldRefused, match="invoice:inv_7 was put under a legal hold already, by user:counsel"):
        api.hold(resource, "user:other", "case 13")
    over = api.release(resource, "user:counsel", "over")
    assert api.release(resource, "user:counsel", "over") == over
    with pytest.raises(HoldRefused, match="released already"):
        api.release(resource, "user:other", "over")
    again = api.hold(resource, "user:counsel", "case 12")
    assert again.position == over.position + 1
    with pytest.raises(HoldRefused, match="there is no entry 99"):
        api.hold(99, "user:counsel", "case 12")
    wrong: Any = ("invoice",)
    with pytest.raises(InvalidEvent):
        api.hold(wrong, "user:counsel", "case 12")
    assert len(checked(api)) == 3


def test_the_ledgers_of_a_database_hold_apart(ledger: Ledger, admin: psycopg.Connection) -> None:
    admin.execute("select ledger.create_ledger('second')")
    about = {"resource_type": "invoice", "resource_id": "inv_7"}
    with Ledger.open(database_url=ledger.settings.database_url, name="second") as second:
        for each in (ledger, second):
            each.append(event(0, **about))
        ledger.hold(("invoice", "inv_7"), "user:counsel", "case 12")
        second.erase(1, "user:dpo", "asked for")
        with pytest.raises(UnderLegalHold):
            ledger.erase(1, "user:dpo", "asked for")


# ------------------------------------------------------------------------------------ what the database itself refuses


@pytest.fixture
def writer(ledger: Ledger, admin: psycopg.Connection) -> Iterator[str]:
    """A role that may append, and believes itself cleverer than the setting."""
    admin.execute("drop role if exists ledger_test_writer")
    admin.execute("create role ledger_test_writer")
    admin.execute("select ledger.grant_role('ledger_writer', 'ledger_test_writer', null)")
    admin.execute("grant select, insert on all tables in schema ledger to ledger_test_writer")
    admin.execute("grant update on ledger.tails, ledger.audit_logs, ledger.holds to ledger_test_writer")
    admin.execute("grant execute on function ledger.insert_own to ledger_test_writer")
    try:
        yield "ledger_test_writer"
    finally:
        admin.execute("reset role")
        admin.execute("drop owned by ledger_test_writer")
        admin.execute("drop role ledger_test_writer")


@pytest.mark.parametrize("role", ["superuser", "writer"])
@pytest.mark.parametrize("replication", ["origin", "replica"])
def test_nobody_inserts_own_actions(
    tail: Tail, admin: psycopg.Connection, writer: str, role: str, replication: str
) -> None:
    """Sound in every other way: with INSERT, with COPY, among others; and a writer that sets what the functions set."""
    admin.execute(sql.SQL("set session_replication_role = {}").format(sql.Identifier(replication)))
    if role == "writer":
        admin.execute("set role ledger_test_writer")
    appender = Appender(LedgerRef(1, "main"))
    for own_event in (erasing(1, "user:x", "y"), holding(1, "user:x", "y"), Event("user:x", "ledger.anything")):
        if role == "writer":
            admin.execute("select set_config('ledger.own', %s, false)", [own_event.action])
        own = prepare(own_event, "main", own=True)
        for drafts in ([own], [own, prepare(event(1), "main")], [prepare(event(1), "main"), own]):
            refused(admin, OWN, append, admin, appender, drafts)
    if role == "writer":
        admin.execute("select set_config('ledger.own', 'ledger.entry_erased', false)")
        refused(admin, OWN, call, admin, "insert_own", erasing(1, "user:x", "y"), tail)
        for function in ("erase_entry", "place_hold", "release_hold", "record_key", "skip_entry", "retry_entry"):
            refused(admin, "42501", call, admin, function, erasing(1, "user:x", "y"), tail)
    with admin.transaction():
        append(admin, appender, [prepare(event(4), "main")])


def append(connection: psycopg.Connection, appender: Appender, drafts: list[Draft]) -> None:
    drive(appender.append_within(drafts), connection, raw_errors=True)


def test_an_action_that_only_begins_alike_is_nobodys_own(ledger: Ledger) -> None:
    for action in ("ledger", "ledgers.made", "Ledger.made", "xledger.made"):
        ledger.append(event(0, action=action))
    assert len(checked(ledger)) == 4


UPDATES = [
    "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null where position = 1",
    "update ledger.audit_logs set actor = 'user:43' where position = 1",
    "insert into ledger.holds (ledger_id, resource_type, resource_id, placed) values (1, 'a', 'b', 9)",
    "update ledger.holds set released = 9",
    "update ledger.holds set placed = 9",
]


@pytest.mark.parametrize("role", ["owner", "writer"])
def test_nobody_updates_by_hand(tail: Tail, admin: psycopg.Connection, writer: str, role: str) -> None:
    """The owner without the setting, a writer with it."""
    if role == "writer":
        admin.execute("set role ledger_test_writer")
        for action in ("ledger.entry_erased", "ledger.hold_placed", "ledger.hold_released"):
            admin.execute("select set_config('ledger.own', %s, false)", [action])
            for statement in UPDATES:
                refused(admin, CHANGE, admin.execute, statement)
    else:
        for statement in (*UPDATES, "delete from ledger.holds", "truncate ledger.holds"):
            refused(admin, CHANGE, admin.execute, statement)


@pytest.mark.parametrize(
    "change",
    [
        "after = null",
        "before = null, after = null, metadata = null, salt = null, actor = 'user:43'",
        "before = null, after = null, metadata = null, salt = null, body_hash = hash",
        "before = null, after = '{}', metadata = null, salt = null",
        "before = null, after = null, metadata = null, salt = null, position = 9",
    ],
)
def test_even_as_an_erasure_nothing_but_a_body_goes(tail: Tail, admin: psycopg.Connection, change: str) -> None:
    """The owner who sets by hand what the function sets."""
    admin.execute("select set_config('ledger.own', 'ledger.entry_erased', false)")
    statement = f"update ledger.audit_logs set {change} where position = 1"
    refused(admin, CHANGE, admin.execute, statement)
    for statement in ("delete from ledger.audit_logs", "truncate ledger.audit_logs", "delete from ledger.holds"):
        refused(admin, CHANGE, admin.execute, statement)


def test_a_function_records_only_its_own(ledger: Ledger, tail: Tail, admin: psycopg.Connection) -> None:
    """And nothing that is not whole: no reason, a body of its own, another resource, a false link."""
    sound = erasing(1, "user:x", "y")
    false = [
        ("erase_entry", holding(1, "user:x", "y"), "LE002"),
        ("place_hold", sound, "LE002"),
        ("release_hold", sound, "LE009"),
        ("record_key", sound, "LE002"),
        ("record_key", Event("user:x", KEY_ROTATED, "ledger.entry", "1"), "LE002"),
        ("erase_entry", event(1, action="ledger.entry_erased", resource_type="ledger.entry", resource_id="1"), "LE002"),
        ("erase_entry", Event("user:x", sound.action, "ledger.entry", "1", metadata={"reason": " "}), "LE002"),
        ("erase_entry", Event("user:x", sound.action, "ledger.entry", "1", metadata=["reason"]), "LE002"),
        ("erase_entry", Event("user:x", sound.action, "invoice", "1", metadata={"reason": "y"}), "LE002"),
        ("erase_entry", Event("user:x", sound.action, "ledger.entry", "01", metadata={"reason": "y"}), "LE006"),
        ("erase_entry", Event("user:x", sound.action, "ledger.entry", "1 ", metadata={"reason": "y"}), "LE006"),
    ]
    for function, said_own, sqlstate in false:
        refused(admin, sqlstate, call, admin, function, said_own, tail)
    refused(admin, "LE001", call, admin, "erase_entry", sound, tail._replace(position=tail.position + 5))
    refused(admin, "LE001", call, admin, "erase_entry", sound, tail._replace(hash=bytes(32)))
    call(admin, "erase_entry", sound, tail)
    assert ledger.verify().ok
    # The setting ends with the function.
    assert admin.execute("select coalesce(current_setting('ledger.own', true), '')").fetchall() == [("",)]
    refused(admin, CHANGE, admin.execute, "update ledger.audit_logs set actor = 'b' where position = 2")


def test_a_rotated_key_is_recorded_once(ledger: Ledger, admin: psycopg.Connection) -> None:
    """As the rotation of keys will call it: said again with the same id, it is the same entry."""
    keys = {"old": "k+1+A", "new": "k+2+B"}
    draft = prepare(Event("user:1", KEY_ROTATED, "ledger.key", "k+2", metadata=keys, id=uuid4()), "main", own=True)
    first, again = (drive(record_own(Appender(ledger.ref), draft), admin) for _ in range(2))
    assert first == again
    other = Event("user:1", KEY_ROTATED, "ledger.key", "k+2", metadata={}, id=draft.id)
    with pytest.raises(IdempotencyConflict):
        drive(record_own(Appender(ledger.ref), prepare(other, "main", own=True)), admin)
    [entry] = checked(ledger)
    assert said(entry) == ("user:1", KEY_ROTATED, "ledger.key", "k+2", keys)


# --------------------------------------------------------------------------------------------------------------- verify


def test_verify_compares_the_holds_with_the_chain(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(3))
    ledger.hold(("invoice", "inv_7"), "user:counsel", "case 12")  # 4
    ledger.hold(("invoice", "inv_8"), "user:counsel", "case 13")  # 5
    ledger.release(("invoice", "inv_8"), "user:counsel", "over")  # 6
    assert ledger.verify().findings == []
    for statement, positions in (
        ("delete from ledger.holds where placed = 4", [4]),
        ("update ledger.holds set released = 6 where placed = 4", [4]),
        ("update ledger.holds set released = 99 where placed = 4", [4]),
        ("update ledger.holds set released = null where placed = 5", [6]),
        ("update ledger.holds set resource_id = 'inv_9' where placed = 4", [4, 4]),
        ("insert into ledger.holds values (1, 'invoice', 'inv_9', 2, null)", [2]),
    ):
        before = admin.execute("table ledger.holds").fetchall()
        with by_hand(admin):
            admin.execute(statement)
        findings = ledger.verify().findings
        assert places(findings) == [(each, "unprotected") for each in positions]
        assert ledger.verify(workers=2).findings == findings
        with by_hand(admin):
            admin.execute("delete from ledger.holds")
            for row in before:
                admin.execute("insert into ledger.holds values (%s, %s, %s, %s, %s)", row)
    assert ledger.verify().findings == []


@contextmanager
def by_hand(admin: psycopg.Connection) -> Iterator[None]:
    """As a superuser with the triggers on the holds off, and on again."""
    admin.execute("alter table ledger.holds disable trigger all")
    yield
    for trigger in ("append_only", "placed_by_entries", "released_by_entries"):
        admin.execute(f"alter table ledger.holds enable always trigger {trigger}".encode())


def test_erased_by_the_tests_own_helper(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(2))
    assert erase(admin, 1).position == 3
    assert ledger.verify().ok


@pytest.fixture
def tail(ledger: Ledger) -> Tail:
    ledger.append_many(events(3))
    return ledger.tail()
