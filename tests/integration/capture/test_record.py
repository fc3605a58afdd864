"""`ledger.record`: what it takes, what it refuses, and what a recorder may do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import psycopg.types.json
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import Event, Ledger
from ledger.capture.record import SQL, as_json
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.errors import EventRejected, InvalidEvent, UnknownLedger, UsageError, WaitTimeout
from ledger.format.canonical import entry_id_for
from ledger.migrate.roles import grant, revoke
from ledger.store.drafts import prepare
from ledger.store.ledgers import create_ledger
from tests.support.api import Api
from tests.support.logins import Logins, user_of

RECORD = (
    "select ledger.record('main', %(actor)s, %(action)s, %(resource_type)s, %(resource_id)s, %(before)s, %(after)s, "
    "%(metadata)s, actor_type => %(actor_type)s, occurred_at => %(occurred_at)s::timestamptz)"
)
ARGUMENTS: dict[str, Any] = dict.fromkeys(
    ("actor", "action", "resource_type", "resource_id", "before", "after", "metadata", "actor_type", "occurred_at")
) | {"actor": "user:1", "action": "a.b"}


@pytest.fixture
def recorder(login: Logins) -> Iterator[psycopg.Connection]:
    with psycopg.connect(login("ledger_recorder"), autocommit=True) as connection:
        yield connection


def seal(ledger: Ledger) -> int:
    with closing(Connector(ledger.settings)) as connector:
        sealer = Sealer(connector)
        sealed = sealer.seal()
        assert not sealer.stopped
        return sealed


def record(connection: psycopg.Connection, **arguments: Any) -> UUID:
    [id_] = connection.execute(RECORD, ARGUMENTS | arguments).fetchone() or ()
    assert isinstance(id_, UUID)
    return id_


def test_an_event_of_sql_becomes_an_entry(ledger: Ledger, recorder: psycopg.Connection) -> None:
    before = datetime.now(UTC)
    id_ = record(
        recorder, resource_type="invoice", resource_id="inv_7", actor_type="service",
        before='{"b": 1.10,\n "a": [1, 2.50e3, "x  y"]}', after="null", metadata='{"z":1,"a":2}',
    )  # fmt: skip
    assert id_.version == 7
    assert list(ledger.read()) == []
    assert seal(ledger) == 1
    [entry] = ledger.read()
    assert (entry.actor, entry.actor_type, entry.action) == ("user:1", "service", "a.b")
    assert (entry.resource_type, entry.resource_id, entry.id) == ("invoice", "inv_7", id_)
    assert entry.before_json == '{"b":1.10,"a":[1,2.50e3,"x  y"]}', "to the letter, without blanks between"
    assert (entry.after, entry.metadata_json) == (None, '{"z":1,"a":2}')
    assert before <= entry.occurred_at <= entry.recorded_at
    assert ledger.verify().ok


def test_it_is_recorded_if_and_only_if_the_transaction_commits(ledger: Ledger, recorder: psycopg.Connection) -> None:
    with suppress(ZeroDivisionError), recorder.transaction():
        record(recorder, action="rolled.back")
        raise ZeroDivisionError
    with recorder.transaction():
        record(recorder, action="kept.one")
        with suppress(ZeroDivisionError), recorder.transaction():
            record(recorder, action="rolled.back")
            raise ZeroDivisionError
        record(recorder, action="kept.two")
        assert seal(ledger) == 0, "nothing is visible yet"
    assert seal(ledger) == 2
    assert [entry.action for entry in ledger.read()] == ["kept.one", "kept.two"]


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("actor", {"actor": ""}), ("actor", {"actor": "x" * 256}), ("actor", {"actor": None}),
        ("actor_type", {"actor_type": ""}), ("actor_type", {"actor_type": "x" * 65}),
        ("action", {"action": ""}), ("action", {"action": None}), ("action", {"action": "x" * 129}),
        ("action", {"action": "ledger.entry_erased"}), ("action", {"action": "ledger.x"}),
        ("resource_type", {"resource_type": "invoice"}), ("resource_type", {"resource_id": "7"}),
        ("resource_type", {"resource_type": "x" * 65, "resource_id": "7"}),
        ("resource_type", {"resource_type": "", "resource_id": "7"}),
        ("resource_id", {"resource_type": "invoice", "resource_id": "x" * 256}),
        ("resource_id", {"resource_type": "invoice", "resource_id": ""}),
        ("before", {"before": '"\\u0000"'}), ("after", {"after": '{"a":"\\ud800"}'}),
        ("metadata", {"metadata": '{"\\uDc00x":1}'}), ("after", {"after": "[" * 65 + "]" * 65}),
        ("metadata", {"metadata": '{"a":' * 65 + "1" + "}" * 65}),
        ("after", {"after": '{"a":' + "[" * 64 + "]" * 64 + ',"a":1}'}),
        ("before", {"before": '{"b":"]]]","a":' + "[{\"x\":" * 32 + "1" + "}]" * 32 + "}"}),
        ("metadata", {"metadata": "[" + "[]," * 64 + "1e999999]"}),
        ("body", {"before": '"' + "x" * 262_100 + '"'}),
        ("body", dict.fromkeys(("before", "after", "metadata"), '"' + "ü" * 50000 + '"')),
        ("occurred_at", {"occurred_at": "infinity"}), ("occurred_at", {"occurred_at": "-infinity"}),
        ("occurred_at", {"occurred_at": "10000-01-01 00:00+00"}), ("occurred_at", {"occurred_at": "0001-01-01 BC"}),
    ],
)  # fmt: skip
def test_what_the_format_refuses_is_refused_at_once(
    recorder: psycopg.Connection, admin: psycopg.Connection, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(psycopg.Error, match=f"the event is refused: {field}: ") as refused:
        record(recorder, **arguments)
    assert (refused.value.sqlstate, refused.value.diag.column_name) == ("LE013", field)
    assert admin.execute("select count(*) from ledger.outbox").fetchall() == [(0,)]


def test_what_is_just_allowed_is_sealed(ledger: Ledger, recorder: psycopg.Connection) -> None:
    longest = {"actor": "ü" * 255, "actor_type": "ü" * 64, "action": "𝄞" * 128}
    record(recorder, **longest, resource_type="ü" * 64, resource_id="ü" * 255, after="[" * 64 + "]" * 64)
    record(recorder, after='"\\\\u0000 \\ud834\\udd1e"', before='"[[[' + "[" * 100 + '"')
    record(recorder, before='{"\\"]}[":' * 63 + '["{[\\\\"]' + "}" * 63, metadata="[1e999" + ",[[]],{}" * 100 + "]")
    record(recorder, after='"' + "x" * (262_070 - 10) + '"')
    record(recorder, occurred_at="0001-01-01 00:00+00")
    record(recorder, occurred_at="9999-12-31 23:59:59.999999+00")
    assert seal(ledger) == 6
    assert len(list(ledger.read())) == 6
    assert ledger.verify().ok


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=70) | st.sampled_from(
    ["", "ledger.x", "ledger", "x" * 64, "x" * 65, "ü" * 128, "y" * 129, "z" * 255, "z" * 256]
)
values = st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner, max_size=3))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actor=texts, action=texts, actor_type=texts, after=values,
    resource=st.tuples(st.none() | texts, st.none() | texts), depth=st.integers(0, 66),
)  # fmt: skip
def test_it_refuses_what_append_refuses(
    recorder: psycopg.Connection, actor: str, action: str, actor_type: str, after: Any, resource: Any, depth: int
) -> None:
    for _ in range(depth):
        after = [after]
    event = Event(actor, action, resource[0], resource[1], actor_type, after=after)
    try:
        [(id_,)] = recorder.execute(
            SQL["record_all"].format(ledger="%s", events="%s"), ("main", as_json("main", [event]))
        ).fetchall()
    except InvalidEvent:
        with pytest.raises(psycopg.Error) as refused:
            record(
                recorder, actor=actor, action=action, actor_type=actor_type, resource_type=resource[0],
                resource_id=resource[1], after=psycopg.types.json.Json(after),
            )  # fmt: skip
        assert refused.value.sqlstate == "LE013"
    else:
        assert isinstance(id_, UUID)


def test_ids_and_keys(ledger: Ledger, recorder: psycopg.Connection) -> None:
    own = uuid4()
    query = "select ledger.record('main', 'user:1', 'a.b', {} => %s)"
    for _ in range(2):
        assert recorder.execute(query.format("id"), (own,)).fetchone() == (own,)
    for key in ("run 2026-11", "ü" * 1024):
        assert recorder.execute(query.format("idempotency_key"), (key,)).fetchone() == (entry_id_for(key),)
    for key in ("", "x" * 1025):
        with pytest.raises(psycopg.Error, match="idempotency_key: must have 1 to 1024"):
            recorder.execute(query.format("idempotency_key"), (key,))
    with pytest.raises(psycopg.Error, match="not both"):
        recorder.execute("select ledger.record('main', 'u', 'a', id => %s, idempotency_key => 'k')", (own,))
    assert seal(ledger) == 4
    assert len(list(ledger.read())) == 3, "the same event under the same id is appended once"


def test_another_event_under_a_known_id_is_set_aside(
    ledger: Ledger, recorder: psycopg.Connection, admin: psycopg.Connection
) -> None:
    first = ledger.append(Event("user:1", "a.b", idempotency_key="k", after={"n": 1}))
    query = "select ledger.record('main', 'user:1', 'a.b', idempotency_key => 'k', after => %s)"
    recorder.execute(query, ('{"n":1}',))
    recorder.execute(query, ('{"n":2}',))
    record(recorder, action="another.one")
    assert seal(ledger) == 3
    assert [entry.action for entry in ledger.read()] == ["a.b", "another.one"]
    [(after, reason)] = admin.execute("select after::text, reason from ledger.rejected").fetchall()
    assert after == '{"n":2}' and "was recorded at position 1 with another body" in reason
    assert ledger.receipt(first.id) == first


def test_an_id_of_the_outbox_that_another_gives_as_his_own(
    ledger: Ledger, recorder: psycopg.Connection, admin: psycopg.Connection
) -> None:
    """Who knows an id that is still waiting may record under it: the ledger does not stop, and nothing is lost."""
    ledger.append(Event("user:9", "someone.elses", id=(known := uuid4())))
    admin.execute(
        "insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action)"
        " values (1, %s, false, now(), 'user:1', 'user', 'a.b')",
        (known,),
    )
    for action in ("one.more", "and.one"):
        record(recorder, action=action)
    assert seal(ledger) == 3
    assert [entry.action for entry in ledger.read()] == ["someone.elses", "one.more", "and.one"]
    assert admin.execute("select action from ledger.rejected").fetchall() == [("a.b",)]


def test_a_row_that_cannot_be_sealed_is_not_in_the_way(
    ledger: Ledger, recorder: psycopg.Connection, admin: psycopg.Connection
) -> None:
    """Such as only the owner can put there."""
    record(recorder, action="before.it")
    for action, after in (
        ("x" * 200, None),
        ("a.b", '"\\u0000"'),
        ("ledger.entry_erased", None),
        ("a.b", "[" * 70 + "]" * 70),
    ):
        admin.execute(
            "insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action, after)"
            " values (1, gen_random_uuid(), false, now(), 'user:1', 'user', %s, %s)",
            (action, after),
        )
    record(recorder, action="after.it")
    assert seal(ledger) == 6
    assert [entry.action for entry in ledger.read()] == ["before.it", "after.it"]
    assert admin.execute("select count(*) from ledger.rejected where reason <> ''").fetchall() == [(4,)]
    assert admin.execute("select count(*) from ledger.outbox").fetchall() == [(0,)]
    assert ledger.verify().ok


def test_the_actor_of_the_context(ledger: Ledger, recorder: psycopg.Connection) -> None:
    with recorder.transaction():
        recorder.execute("select set_config('ledger.context', %s, true)", ('{"actor":"user:7","actor_type":"robot"}',))
        record(recorder, actor=None)
        record(recorder)
    with pytest.raises(psycopg.Error, match="actor: is missing"):
        record(recorder, actor=None)
    seal(ledger)
    assert [(entry.actor, entry.actor_type) for entry in ledger.read()] == [("user:7", "robot"), ("user:1", "user")]


# -------------------------------------------------------------------------------------------------------------- roles


def test_a_recorder_may_record_and_nothing_else(login: Logins, recorder: psycopg.Connection) -> None:
    id_ = record(recorder)
    for statement in (
        "select * from ledger.outbox", "select count(*) from ledger.outbox", "delete from ledger.outbox",
        "update ledger.outbox set actor = 'user:2'", "truncate ledger.outbox", "select * from ledger.rejected",
        "insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action)"
        " values (1, gen_random_uuid(), false, now(), 'u', 'user', 'a')",
        "insert into ledger.rejected select 1", "select * from ledger.audit_logs", "select * from ledger.entries",
        "update ledger.tails set fence = fence", "select * from ledger.tails", "select * from ledger.recorders",
        "insert into ledger.audit_logs (ledger_id) values (1)",
        "select ledger.check_event(null, 'a', 'b', 'c', null, null, null, null, null)",
        "select ledger.recorded(1, '{}')", "select nextval('ledger.outbox_seq_seq')",
        "select setval('ledger.outbox_seq_seq', 1)",
        "select ledger.changed(1, 'a', 'b', 0)",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            recorder.execute(statement)
    assert recorder.execute("select * from ledger.receipt('main', %s)", (id_,)).fetchall() == []


def test_only_in_the_ledgers_that_were_granted(ledger: Ledger, admin: psycopg.Connection, login: Logins) -> None:
    drive(create_ledger("second"), admin)
    url = login("ledger_recorder", ledgers=["second"])
    with psycopg.connect(url, autocommit=True) as recorder:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not record in ledger 'main'"):
            record(recorder)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not record in ledger 'main'"):
            recorder.execute("select * from ledger.receipt('main', gen_random_uuid())")
        with pytest.raises(psycopg.Error, match="there is no ledger 'third'") as unknown:
            recorder.execute("select ledger.record('third', 'user:1', 'a.b')")
        assert unknown.value.sqlstate == "LE012"
        recorder.execute("select ledger.record('second', 'user:1', 'a.b')")
        drive(grant("ledger_recorder", user_of(url), ["main"]), admin)
        record(recorder)
        drive(revoke("ledger_recorder", user_of(url)), admin)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            record(recorder)
    other = Ledger.open(database_url=login("ledger_recorder", ledgers=["second"]), name="main")
    with other, pytest.raises(UnknownLedger, match="no ledger 'main' in this database, or none that this user"):
        other.record(Event("user:1", "a.b"))
    assert seal(ledger) == 2


def test_a_hostile_session_does_not_act_as_the_owner(login: Logins) -> None:
    """Names that the session puts before ours, and settings under which our statements mean something else."""
    with psycopg.connect(login("ledger_recorder"), autocommit=True) as recorder:
        recorder.execute("create temp table ledgers (ledger_id int, name text)")
        recorder.execute("set search_path = pg_temp, ledger, public")
        recorder.execute("set role ledger_recorder")
        record(recorder)
        recorder.execute("reset role")
        recorder.execute("set standard_conforming_strings = off")
        record(recorder)


# ------------------------------------------------------------------------------------------------------------- Python


@pytest.fixture
def roles() -> tuple[str, ...]:
    return ("ledger_recorder",)


def test_record_and_receipt(api: Api, ledger: Ledger) -> None:
    id_ = api.record(Event("user:1", "a.b", after={"ü": [1.5, None]}))
    with pytest.raises(WaitTimeout, match=f"event {id_} is not sealed in ledger 'main' after 0.05 s"):
        api.receipt(id_, timeout=0.05)
    worker = threading.Timer(0.2, seal, (ledger,))
    worker.start()
    receipt = api.receipt(id_, timeout=30)
    worker.join()
    [entry] = ledger.read()
    assert (receipt.position, receipt.hash, receipt.id) == (1, entry.hash, id_) == (1, entry.hash, entry.id)
    ids = api.record_many([Event("user:1", "a.b", after=number) for number in range(300)])
    assert seal(ledger) == 300
    assert [entry.id for entry in ledger.read(after=1)] == ids
    assert api.record_many([]) == []


def test_an_event_that_was_set_aside_has_no_receipt(api: Api, ledger: Ledger) -> None:
    api.record(Event("user:1", "a.b", id=(known := uuid4())))
    seal(ledger)
    with_key = api.record(Event("user:1", "a.b", idempotency_key="k", after=1))
    api.record(Event("user:1", "a.b", idempotency_key="k", after=2))
    api.record(Event("user:2", "a.b", id=known))
    seal(ledger)
    assert api.receipt(known).position == 1
    assert api.receipt(with_key).position == 2
    with psycopg.connect(ledger.settings.database_url or "", autocommit=True) as admin:
        admin.execute(
            "insert into ledger.rejected (ledger_id, seq, id, named, recorded_at, actor, actor_type, action, reason)"
            " values (1, 99, %s, false, now(), 'user:1', 'user', 'a.b', 'why not')",
            (other := uuid4(),),
        )
    with pytest.raises(EventRejected, match=r"was set aside.*why not"):
        api.receipt(other)


@pytest.mark.parametrize(
    "event", [Event("", "a.b"), Event("user:1", "ledger.x"), Event("user:1", "a.b", after=float("nan"))]
)
def test_errors_are_those_of_append(api: Api, event: Event) -> None:
    def problem(call: Callable[[], object]) -> str:
        with pytest.raises(InvalidEvent) as error:
            call()
        return str(error.value)

    assert problem(lambda: api.record(event)) == problem(lambda: prepare(event, "main"))


def test_in_the_callers_transaction(api: Api, ledger: Ledger) -> None:
    connection = api.connect()
    with connection.transaction():
        kept = [api.record(Event("user:1", "kept.one"), connection=connection.raw)]
        kept += api.record_many([Event("user:1", "kept.two")] * 2, connection=connection.raw)
    with suppress(ZeroDivisionError), connection.transaction():
        api.record(Event("user:1", "rolled.back"), connection=connection.raw)
        raise ZeroDivisionError
    connection.close()
    with pytest.raises(UsageError, match="the connection is closed"):
        api.record(Event("user:1", "a.b"), connection=connection.raw)
    assert seal(ledger) == 3
    assert [entry.id for entry in ledger.read()] == kept


def test_a_client_in_another_encoding(ledger: Ledger, login: Logins) -> None:
    url = login("ledger_recorder")
    with Ledger.open(database_url=url) as recording, psycopg.connect(url, client_encoding="latin1") as connection:
        recording.record(Event("user:ü", "a.b", after={"€": "𝄞"}), connection=connection)
    seal(ledger)
    [entry] = ledger.read()
    assert (entry.actor, entry.after) == ("user:ü", {"€": "𝄞"})


def test_nobody_waits_for_who_records(ledger: Ledger, login: Logins) -> None:
    """Neither other recorders nor appends, not even of the same id."""
    url = login("ledger_recorder")
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        two.execute("set lock_timeout = '1s'")
        for connection in (one, two):
            connection.execute("select ledger.record('main', 'user:1', 'a.b', idempotency_key => 'k')")
        ledger.append(Event("user:1", "a.b"))
        two.commit()
        assert seal(ledger) == 1
        one.commit()
    assert seal(ledger) == 1
    assert len(list(ledger.read())) == 2
