"""Drafts in their places: hashes, receipts, rows and COPY's bytes, of drafts of the core, of Python's, and mixed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import Event
from ledger.errors import ChainBroken
from ledger.events import GENESIS, Tail
from ledger.format import chain, native
from ledger.store import entry_rows
from ledger.store.drafts import count_new
from tests.support.any_events import Text, ordinary_events
from tests.support.both.drafts import of_core, of_python

AT = datetime(2026, 11, 29, 12, 0, 0, 7, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
moments = st.sampled_from([AT, FIRST, LAST]) | st.datetimes(timezones=st.just(UTC))


def mixed(events: list[Event], ours: list[bool]) -> tuple[list[Any], list[Any]]:
    """Drafts of the core or of Python; and all of them of Python."""
    expected = [of_python(event) for event in events]
    ours = [*ours, *[True] * len(events)]
    drafts = [of_core(event) if own else draft for event, draft, own in zip(events, expected, ours, strict=False)]
    assert None not in drafts
    return drafts, expected


def said(link: Any) -> tuple[Any, ...]:
    assert type(link.prev) is type(link.hash) is bytes
    return link.position, link.prev, link.hash, link.recorded_at, link.receipt(), entry_rows.row_params(3, link)


def compare(tail: Tail, drafts: list[Any], expected: list[Any], now: datetime) -> None:
    links = chain.extend(tail, drafts, now)
    assert isinstance(links, native.Links) and isinstance(links, chain.LINKS)
    reference = chain.Links(tail, expected, max(now, tail.recorded_at))
    assert len(links) == len(reference) == count_new(links)
    copied = list(entry_rows.copy_data(3, chain.extend(tail, drafts, now)))
    assert b"".join(copied) == b"".join(entry_rows._copy_data(3, reference))
    for index in (*range(-len(drafts), len(drafts)), *reversed(range(len(drafts)))):
        assert said(links[index]) == said(reference[index])
    assert list(map(said, links)) == list(map(said, reference))
    assert b"".join(entry_rows.copy_data(3, links)) == b"".join(copied)
    for index in (len(drafts), -len(drafts) - 1, 2**62, -(2**62)):
        with pytest.raises(IndexError):
            links[index]
        with pytest.raises(IndexError):
            reference[index]
    if drafts:
        confirmed = [(str(links[-1].position), links[-1].hash.hex())]
        entry_rows.confirm(links, confirmed)
        entry_rows.confirm(reference, confirmed)


@given(
    st.lists(ordinary_events(), max_size=5),
    st.lists(st.booleans(), max_size=5),
    st.integers(-5, 2**63 - 6),
    st.binary(min_size=32, max_size=32),
    moments,
    moments,
)
@example([Event("a", "b")] * 3, [True, False, True], 2**63 - 4, GENESIS, LAST, LAST)
@example([Event("a", "b")] * 3, [False, True, False], -4, GENESIS, FIRST, FIRST)
@example([], [], 2**63 - 1, GENESIS, AT, AT)
def test_links(
    events: list[Event], ours: list[bool], position: int, prev: bytes, recorded_at: datetime, now: datetime
) -> None:
    drafts, expected = mixed(events, ours)
    compare(Tail(position, prev, recorded_at), drafts, expected, now)


def test_many_links_are_copied_in_pieces() -> None:
    events = [Event("user:42", "b", after="x" * (37 * number % 5000)) for number in range(300)]
    drafts, expected = mixed(events, [number % 3 > 0 for number in range(300)])
    tail = Tail(7, GENESIS, AT)
    links = chain.extend(tail, drafts, AT)
    pieces = entry_rows.copy_data(-(2**31), links)
    some = [next(iter(pieces)), said(links[250]), next(iter(pieces)), list(map(said, links)), *pieces]
    copied = b"".join(piece for piece in some if isinstance(piece, bytes))
    reference = chain.Links(tail, expected, AT)
    assert copied == b"".join(entry_rows._copy_data(-(2**31), reference))
    assert list(pieces) == [] and len(some) > 10
    assert some[1] == said(reference[250]) and some[3] == list(map(said, reference))


@pytest.mark.parametrize(
    ("position", "prev"), [(7, b""), (7, bytes(31)), (7, bytes(33)), (2**63 - 2, GENESIS), (2**63 - 1, GENESIS)]
)
def test_a_tail_that_nothing_can_follow(position: int, prev: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts, expected = mixed([Event("a", "b")] * 2, [True, False])
    with pytest.raises(ChainBroken) as with_core:
        chain.extend(Tail(position, prev, AT), drafts, AT)
    monkeypatch.setattr(native, "core", None)
    with pytest.raises(ChainBroken) as without:
        chain.extend(Tail(position, prev, AT), expected, AT)
    assert str(with_core.value) == str(without.value) != ""


def test_another_time_zone() -> None:
    there = datetime(2026, 11, 29, 23, 59, 59, 999_999, timezone(timedelta(hours=-11)))
    drafts, expected = mixed([Event("a", "b")], [True])
    compare(Tail(0, GENESIS, AT), drafts, expected, there)
    compare(Tail(0, GENESIS, there), drafts, expected, AT)


def test_a_draft_that_python_made_for_itself() -> None:
    """Of what the core leaves to Python."""
    tricky = '","ledger":"other","occurred_at":"'
    events = [
        Event(Text("user:42"), "b", tricky, tricky, metadata=(1, 2)),
        Event(tricky, "a" + tricky, after={"a": tricky}, idempotency_key=Text("key")),
        Event("a", "ledger.entry_erased", "ledger.entry", "1", metadata={"reason": "\\u0000"}),
    ]
    expected = [of_python(event, own=True) for event in events]
    compare(Tail(7, GENESIS, AT), list(expected), expected, AT)
