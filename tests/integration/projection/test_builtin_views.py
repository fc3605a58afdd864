"""The built-in views equal a plain model, for any entries, batches and ledgers."""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_projections import ActorActivity, ResourceHistory, ResourceState, activity, history, state
from ledger_projections.diff import changes
from ledger_projections.jsontext import read, write
from msgspec import UNSET

from ledger import Entry, Event, Ledger, UsageError
from ledger.drivers.run import drive
from tests.support.views import BUILT_IN, START, apply, entry, installed, project, rows

BOUNDED = settings(
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KEYS = st.sampled_from(["a", "b", "a.b", "", '"', "]", "\\", "[0]", "é", "customer", "a b", "\0", "𝄞"])
NUMBERS = st.sampled_from(["0", "1", "1.0", "1.00", "1e400", "-0.0", "12345678901234567890", "0.30000000000000004"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\1"), max_size=6)
MISSING = object()


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """Any JSON text, numbers in every spelling."""
    leaves = st.none() | st.booleans() | TEXTS | NUMBERS.map("\1{}\1".format)
    inner = st.recursive(leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(KEYS, each), max_leaves=8)
    text = json.dumps(draw(inner | st.dictionaries(KEYS, inner, min_size=1)))
    return re.sub(r'"\\u0001(.*?)\\u0001"', r"\1", text)


BODIES = st.none() | json_texts()


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Entries of one ledger about few resources by few actors, some without resource, some erased."""
    made = []
    for position in range(1, draw(st.integers(1, 12)) + 1):
        erased = draw(st.integers(0, 9)) == 0
        resource = draw(st.sampled_from([(None, None), ("thing", "a"), ("thing", "b"), ("file", "a"), ("o'", "%_\\")]))
        fields = {
            "occurred_at": START + timedelta(hours=draw(st.integers(-40, 40))),
            "actor": draw(st.sampled_from(["user:1", "o'hara\t\\N", "ü"])),
            "action": draw(st.sampled_from(["thing.read", "thing.changed"])),
            "resource_type": resource[0],
            "resource_id": resource[1],
            "before_json": None if erased else draw(BODIES),
            "after_json": None if erased else draw(BODIES),
            "salt": None if erased else bytes(16),
        }
        made.append(entry(position, **fields))
    return made


def plain(text: str | None) -> Any:
    """A JSON text as a value in which numbers are their spelling, so that `==` is exact."""
    return None if text is None else json.loads(text, parse_int=_number, parse_float=_number)


def _number(spelling: str) -> tuple[str, str]:
    return "number", spelling


# ------------------------------------------------------------------------------------------------------------- diff


def patched(value: Any, path: str, to: Any) -> Any:
    """The value with the field at a path set, or removed where `to` is MISSING."""
    if path == "":
        return None if to is MISSING else to
    found = re.match(r'\.?([^."\\\[\]]+)|\[("(?:[^"\\]|\\.)*")\]', path)
    assert found is not None
    key = found[1] if found[2] is None else json.loads(found[2])
    rest = path[found.end() :]
    others = {name: item for name, item in value.items() if name != key}
    if to is MISSING and not rest:
        return others
    return others | {key: patched(value[key], rest, to) if rest else to}


@BOUNDED
@given(BODIES, BODIES)
def test_changes_lead_from_before_to_after_and_back(before: str | None, after: str | None) -> None:
    found = plain(write(changes(read(before), read(after))))
    fields = [change["field"] for change in found]
    assert len(set(fields)) == len(fields)
    assert all(change.get("before", MISSING) != change.get("after", MISSING) for change in found)
    was, now = plain(before), plain(after)
    was, now = (
        {} if was is None and isinstance(now, dict) else was,
        {} if now is None and isinstance(was, dict) else now,
    )
    forward, back = was, now
    for change in found:
        forward = patched(forward, change["field"], change.get("after", MISSING))
        back = patched(back, change["field"], change.get("before", MISSING))
    assert (forward, back) == (now, was)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('{"a":1}', '{"a":1}', "[]"),
        ('{"a":1}', '{"a":true}', '[{"field":"a","before":1,"after":true}]'),
        ('{"a":[1]}', '{"a":[true]}', '[{"field":"a","before":[1],"after":[true]}]'),
        ('{"a":[{"x":1,"y":2}]}', '{"a":[{"y":2,"x":1}]}', "[]"),
        ('{"p":1.10}', '{"p":1.1}', '[{"field":"p","before":1.10,"after":1.1}]'),
        ('{"c":{"city":"Bern"}}', '{"c":{"city":"Oslo"}}', '[{"field":"c.city","before":"Bern","after":"Oslo"}]'),
        ('{"c":{"a.b":1}}', '{"c":{"a.b":2}}', r'[{"field":"c[\"a.b\"]","before":1,"after":2}]'),
        ('{"c":{"x":1}}', '{"c":7}', '[{"field":"c","before":{"x":1},"after":7}]'),
        (None, '{"a":null,"b":{"x":1}}', '[{"field":"a","after":null},{"field":"b","after":{"x":1}}]'),
        ('{"a":null}', "{}", '[{"field":"a","before":null}]'),
        ('{"a":1}', None, '[{"field":"a","before":1}]'),
        (None, "7", '[{"field":"","after":7}]'),
        ("[1]", '{"a":1}', '[{"field":"","before":[1],"after":{"a":1}}]'),
        (None, None, "[]"),
        ("null", "null", "[]"),
    ],
)
def test_changes(before: str | None, after: str | None, expected: str) -> None:
    assert write(changes(read(before), read(after))) == expected


@pytest.mark.parametrize("text", [r'"\ud800"', "[" * 5000 + "]" * 5000, '{"a":' * 200 + "1" + "}" * 200, "1" * 5000])
def test_what_cannot_be_read_stays_as_it_is(text: str) -> None:
    assert write(read(text)) == text
    assert write(changes(None, read(text))) == f'[{{"field":"","after":{text}}}]'
    assert changes(read(text), read(text)) == []


# ------------------------------------------------------------------------------------------------------------ model


def state_by_model(about: list[Entry]) -> tuple[Any, bool]:
    now, deleted = None, False
    for each in about:
        before, after = plain(each.before_json), plain(each.after_json)
        if after is None:
            if before is not None:
                now, deleted = None, True
        elif isinstance(now, dict) and isinstance(after, dict):
            for key in list(now):
                if isinstance(before, dict) and key in before and key not in after:
                    del now[key]
            now, deleted = now | after, False
        else:
            now, deleted = after, False
    return now, deleted


def test_views_against_a_model(admin: psycopg.Connection) -> None:
    ids = itertools.count(1)
    projections = [each() for each in BUILT_IN]
    with installed(admin, *projections) as tx:

        @BOUNDED
        @given(histories())
        def run(entries: list[Entry]) -> None:
            ledger_ids = [next(ids) for _ in range(3)]
            for projection, (ledger_id, batch) in itertools.product(
                projections, zip(ledger_ids, (1, 3, 1000), strict=True)
            ):
                apply(projection, ledger_id, entries, tx, batch)
            for projection in projections:
                one, *others = (rows(admin, projection.name, ledger_id) for ledger_id in ledger_ids)
                assert others == [one, one]
            check(admin, ledger_ids[0], entries)

        run()


def check(admin: psycopg.Connection, ledger_id: int, entries: list[Entry]) -> None:
    ref = (ledger_id, "main")
    resources = {(each.resource_type, each.resource_id) for each in entries if each.resource_type is not None}
    for resource_type, resource_id in resources:
        assert resource_type is not None
        assert resource_id is not None
        about = [each for each in entries if (each.resource_type, each.resource_id) == (resource_type, resource_id)]
        found = drive(state(ref, resource_type, resource_id), admin)
        assert found is not None
        assert (plain(found.state_json), found.deleted) == state_by_model(about)
        assert (found.entries, found.first_position) == (len(about), about[0].position)
        last = about[-1]
        assert (found.last_position, found.action, found.actor) == (last.position, last.action, last.actor)
        assert (found.occurred_at, found.recorded_at) == (last.occurred_at, last.recorded_at)

        items = drive(history(ref, resource_type, resource_id), admin)
        assert [item.position for item in items] == [each.position for each in about]
        for item, each in zip(items, about, strict=True):
            expected = write(changes(read(each.before_json), read(each.after_json)))
            assert item.changes_json == (None if each.erased else expected)
            assert (item.occurred_at, item.actor, item.action) == (each.occurred_at, each.actor, each.action)

    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for each in entries:
        groups.setdefault((each.actor, each.occurred_at.astimezone(UTC).date(), each.action), []).append(each)
    everything = drive(activity(ref), admin)
    assert [row.day for row in everything] == sorted((row.day for row in everything), reverse=True)
    assert len(everything) == len(groups)
    for row in everything:
        group = groups[row.actor, row.day, row.action]
        times = [each.occurred_at for each in group]
        assert (row.entries, row.first_position, row.last_position) == (
            *(len(group), group[0].position),
            group[-1].position,
        )
        assert (row.first_occurred_at, row.last_occurred_at) == (min(times), max(times))
    of_one = drive(activity(ref, entries[0].actor), admin)
    assert of_one == [row for row in everything if row.actor == entries[0].actor]


# --------------------------------------------------------------------------------------------------------- examples


def test_state_through_its_life(admin: psycopg.Connection) -> None:
    life: list[tuple[str | None, str | None, str | None, bool]] = [
        (None, None, None, False),  # read before anything is known of it
        (None, '{"a":1.10,"b":{"x":1}}', '{"a":1.10,"b":{"x":1}}', False),
        ('{"a":1.10}', '{"a":2}', '{"a":2,"b":{"x":1}}', False),  # a change told in part
        ('{"a":2,"b":{"x":1}}', '{"a":3}', '{"a":3}', False),  # a whole snapshot without b
        (None, None, '{"a":3}', False),
        ('{"a":3}', None, None, True),
        (None, None, None, True),
        (None, '{"n":12345678901234567890}', '{"n":12345678901234567890}', False),
        (None, "[1e400]", "[1e400]", False),
        (None, r'{"n":"\u0000"}', r'{"n":"\u0000"}', False),
    ]
    view = ResourceState()
    with installed(admin, view) as tx:
        for position, (before, after, expected, deleted) in enumerate(life, 1):
            view.apply(1, [entry(position, before_json=before, after_json=after)], tx)
            found = drive(state((1, "main"), "thing", "a"), admin)
            assert found is not None
            assert (found.state_json, found.deleted, found.entries) == (expected, deleted, position)
        view.apply(1, [entry(11, salt=None)], tx)  # erased: nothing is known of what it did
        found = drive(state((1, "main"), "thing", "a"), admin)
        assert found is not None
        assert (found.state_json, found.last_position) == (r'{"n":"\u0000"}', 11)


def test_history_in_pages(admin: psycopg.Connection) -> None:
    view = ResourceHistory()
    with installed(admin, view) as tx:
        apply(view, 1, [entry(n, after_json='{"é":0.1}') for n in range(1, 8)], tx, 100)
        pages: list[int] = []
        while items := drive(
            history((1, "main"), "thing", "a", limit=3, after_position=pages[-1] if pages else 0), admin
        ):
            assert len(items) <= 3
            pages += [item.position for item in items]
        assert pages == list(range(1, 8))
        [change] = drive(history((1, "main"), "thing", "a", limit=1), admin)[0].changes
        assert (change.field, change.before, change.after) == ("é", UNSET, 0.1)


def test_a_day_is_a_day_in_utc(admin: psycopg.Connection) -> None:
    view = ActorActivity()
    admin.execute("set timezone = 'Pacific/Kiritimati'")
    with installed(admin, view) as tx:
        apply(view, 1, [entry(1), entry(2), entry(3)], tx, 2)  # 23:00, 00:00 and 01:00
        found = drive(activity((1, "main"), limit=10), admin)
        assert [(row.day.isoformat(), row.entries) for row in found] == [("2026-03-02", 2), ("2026-03-01", 1)]


def test_ledgers_do_not_mix(ledger: Ledger, admin: psycopg.Connection) -> None:
    admin.execute("select ledger.create_ledger('other')")
    with Ledger.open(database_url=ledger.settings.database_url, name="other") as other:
        for each, city in ((ledger, "Bern"), (other, "Oslo")):
            each.append_many(Event("user:1", "thing.moved", "thing", "a", after={"city": city}) for _ in range(3))
        project(ledger)
        for each, city in ((ledger, "Bern"), (other, "Oslo")):
            found = each.run(state(each.ref, "thing", "a"))
            assert found is not None
            assert (found.state, found.entries) == ({"city": city}, 3)
            assert len(each.run(history(each.ref, "thing", "a"))) == 3
            assert [row.entries for row in each.run(activity(each.ref))] == [3]


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
def test_questions_that_postgres_cannot_take(text: str) -> None:
    for plan in (state((1, "main"), "t", text), history((1, "main"), text, "i"), activity((1, "main"), text)):
        with pytest.raises(UsageError):
            next(plan)
    with pytest.raises(UsageError, match="limit"):
        next(history((1, "main"), "t", "i", limit=0))
