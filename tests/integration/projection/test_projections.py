"""Every projection: a rebuild equals the live view, swaps atomically, and applies exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import psycopg
import pytest
from ledger_projections import ActorActivity, Timeline

from ledger import Entry, Event, Ledger, Projection, ProjectionFailed, UnknownProjection, Writes
from ledger.drivers.pools import Connector
from ledger.errors import ChainBroken
from ledger.format.chain import check_continues
from ledger.projection import base as plans
from ledger.projection.apply import advance
from ledger.projection.rebuild import rebuild
from ledger.stream.reader import EMPTY_TAIL
from ledger.stream.relay import Relay
from tests.support.helpers import race
from tests.support.projections import Count
from tests.support.views import BUILT_IN, cut, leftovers, project, projector, rows, some_events


@pytest.mark.parametrize("view", BUILT_IN)
def test_rebuilt_as_it_was_live(ledger: Ledger, admin: psycopg.Connection, view: type[Projection]) -> None:
    """Row for row, whatever batches came live."""
    ledger.append_many(some_events(1500))
    projection, servers = view(), Connector(ledger.settings)
    servers.run(plans.install(projection, [ledger.ref]))
    tail = EMPTY_TAIL
    for batch in cut(list(ledger.read()), (1, 3, 1000)):
        at = servers.run(advance(ledger.ref, [projection], tail, batch, epoch=1))[projection.name]
        tail = check_continues(tail, batch)
        assert at.position == tail.position
    servers.close()
    live = rows(admin, projection.name)
    assert live

    seen: list[tuple[int, int]] = []
    assert rebuild(ledger.settings, projection, lambda done, to_do: seen.append((done, to_do))) == 1500
    assert seen[-1] == (1500, 1500)
    assert rows(admin, projection.name) == live
    ledger.append_many(some_events(50, 1500))
    project(ledger, [projection])
    live = rows(admin, projection.name)
    rebuild(ledger.settings, projection)
    assert rows(admin, projection.name) == live


def test_from_the_stream_as_from_postgres(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(300))
    servers = Connector(ledger.settings)
    Relay(servers).publish()
    servers.close()
    project(ledger)
    for view in BUILT_IN:
        live = rows(admin, view.name)
        rebuild(ledger.settings, view())
        assert rows(admin, view.name) == live


def test_several_projectors_apply_each_entry_once(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(3000))

    def catch_up() -> None:
        with projector(ledger, [Count(), ActorActivity()]) as running:
            running.catch_up()
            assert not running.failed

    race(catch_up, catch_up, catch_up)
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(3000,)]
    [(activity,)] = admin.execute("select sum(entries) from ledger_views.actor_activity").fetchall()
    assert activity == 3000


# ------------------------------------------------------------------------------------------------- versions, failures


class Sum(Count):
    """The next version of Count, with another table."""

    version = 2
    tables: ClassVar[tuple[str, ...]] = ("count", "sums")
    schema = Count.schema + "; create table sums (ledger_id int primary key, total bigint not null)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        super().apply(ledger_id, entries, tx)
        tx.execute(
            """
            insert into sums values (%s, %s)
            on conflict (ledger_id) do update set total = sums.total + excluded.total
            """,
            (ledger_id, sum(entry.position for entry in entries)),
        )


def test_a_new_version_is_rebuilt_by_itself(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(10))
    project(ledger, [Count()])
    ledger.append_many(some_events(10))
    project(ledger, [Sum()])
    assert admin.execute("select total from ledger_views.sums").fetchall() == [(55 + 155,)]
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(20,)]
    project(ledger, [Count()])  # back to the old version
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(20,)]


def test_a_failing_projection_stops_alone(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(10))
    with projector(ledger, [Count(), Timeline()]) as running:
        running.catch_up()
        ledger.append_many([*some_events(5), Event("user:1", "poison"), *some_events(5)])
        running.catch_up()
        [failed] = running.failed
        assert isinstance(failed, ProjectionFailed)
        assert (failed.name, failed.position) == ("count", 16)
        assert "ValueError in apply, projections.py:" in str(failed)
        assert str(failed.__cause__) == "poisoned"
    assert len(rows(admin, "timeline")) == 21
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(15,)]
    assert ledger.run(plans.reached(ledger.ref, "count")) == 15
    with pytest.raises(ProjectionFailed):
        rebuild(ledger.settings, Count())
    assert leftovers(admin) == 0
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(15,)]


class Misspelt(Count):
    name = "misspelt"
    tables: ClassVar[tuple[str, ...]] = ("misspelt",)
    schema = "create table misspelt (ledger_id int primary key)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        tx.copy("misspelt", ["no_such_column"], [(1,)])


class Typed(Count):
    """Copies rows of the given types."""

    name = "typed"
    tables: ClassVar[tuple[str, ...]] = ("typed",)
    schema = "create table typed (ledger_id int, position bigint, id uuid, at timestamptz, actor text, body json)"

    def __init__(self, types: Sequence[str]) -> None:
        self.types = types

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        values = [
            (ledger_id, each.position, each.id, each.occurred_at, each.actor, each.before_json) for each in entries
        ]
        tx.copy("typed", ("ledger_id", "position", "id", "at", "actor", "body"), values, self.types)


TYPES = ("int4", "int8", "uuid", "timestamptz", "text", "text")


def test_rows_are_the_same_in_text_and_in_binary(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(20))
    ledger.append(Event("user:\t\\N\n…\N{SNAKE}", "thing.read", before={"tab\t": "\\.\r\n"}))
    copied = []
    for types in ((), TYPES):
        project(ledger, [Typed(types)])
        copied.append(rows(admin, "typed"))
        admin.execute("drop table ledger_views.typed; delete from ledger.projections where name = 'typed'")
    assert copied[0] == copied[1] and len(copied[0]) == 21


@pytest.mark.parametrize(
    ("types", "fault"),
    [
        (("int4", "int8", "uuid", "timestamptz", "int8", "text"), "TypeError"),
        (("int4", "int4", "uuid", "timestamptz", "text", "text"), "ProtocolViolation"),
        (TYPES[:-1], "DataError"),
        ((*TYPES[:-1], "no_such_type"), "KeyError"),
    ],
)
def test_a_value_of_another_type_stops_the_projection(ledger: Ledger, types: Sequence[str], fault: str) -> None:
    ledger.append_many(some_events(3))
    with projector(ledger, [Typed(types)]) as running:
        running.catch_up()
        [failed] = running.failed
    assert (failed.position, type(failed.__cause__).__name__) == (1, fault)


def test_a_projection_that_the_database_refuses_stops_alone(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(some_events(3))
    with projector(ledger, [Misspelt(), Count()]) as running:
        running.catch_up()
        assert [failed.name for failed in running.failed] == ["misspelt"]
    assert admin.execute("select entries from ledger_views.count").fetchall() == [(3,)]


def test_a_ledger_created_later_is_projected(ledger: Ledger, admin: psycopg.Connection) -> None:
    project(ledger)
    admin.execute("select ledger.create_ledger('later')")
    with Ledger.open(database_url=ledger.settings.database_url, name="later") as later:
        later.append(Event("user:1", "user.login"))
        with pytest.raises(UnknownProjection):
            later.run(plans.reached(later.ref, "timeline"))
        rebuild(ledger.settings, Timeline())
        assert later.run(plans.reached(later.ref, "timeline")) == 1
        project(ledger)
        assert len(rows(admin, "resource_state")) == 0


def test_what_applies_is_checked(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Nothing is built over an entry that is not the one seen before."""
    ledger.append_many(some_events(3))
    project(ledger, [Count()])
    admin.execute("alter table ledger.projections disable trigger place_of_view")
    admin.execute("update ledger.projections set hash = decode(repeat('11', 32), 'hex') where name = 'count'")
    ledger.append_many(some_events(1))
    with projector(ledger, [Count()]) as running:
        running.catch_up()
        [stopped] = running.stopped
        assert isinstance(stopped, ChainBroken) and "'auditledger replay'" in str(stopped)
