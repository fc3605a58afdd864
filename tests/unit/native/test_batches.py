"""append_many's batches, with the core and without: the same drafts, in the same batches, and the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import Event
from ledger.errors import InvalidEvent
from ledger.format import native
from ledger.store import drafts
from ledger.store.drafts import Gathering
from tests.support.any_events import Text, any_events, no_events, ordinary_events

FIRST, MOST, MOST_BYTES = 3, 20, 4000
"""Smaller batches than append_many's, so that few events make many."""


class _Failed(Exception):
    pass


def fingerprint(draft: Any) -> Any:
    """All of a draft that is not random, nor the clock's."""
    event = draft.event
    own_id = draft.id if draft.named else None
    occurred = None if event.occurred_at is None else draft.occurred
    return event, own_id, occurred, draft.before, draft.after, draft.metadata, len(draft.salt), draft.size


def gathered(source: Callable[[], Iterator[Any]]) -> tuple[list[list[Any]], Any]:
    """The batches, and how the events ended."""
    gathering = Gathering("main")
    events = source()
    pulled: list[list[Any]] = []
    while True:
        try:
            batch = gathering.pull(events)
        except BaseException as error:  # what is no Exception ends the append at once
            return [*pulled, list(map(fingerprint, gathering.batch()))], (type(error), str(error), "raised")
        if not batch:
            break
        pulled.append(list(map(fingerprint, batch)))
    failure = gathering._source_failure
    return pulled, failure and (type(failure), str(failure), getattr(failure, "path", None))


def compare(source: Callable[[], Iterator[Any]]) -> tuple[list[list[Any]], Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "FIRST_BATCH", FIRST)
        patch.setattr(drafts, "BATCH", MOST)
        patch.setattr(drafts, "BATCH_BYTES", MOST_BYTES)
        with_core = gathered(source)
        patch.setattr(native, "encoder", None)
        assert with_core == gathered(source)
    return with_core


_events = ordinary_events() | st.just(Event("a", "b"))
_large = st.integers(0, MOST_BYTES).map(lambda size: Event("a", "b", after="x" * size))
_odd = st.sampled_from([Event(Text("a"), "b"), Event("a", "b", after=(1, 2)), Event("a", "b", metadata="\\u0000")])


@given(st.lists(_events | _large | _odd, max_size=60))
def test_good_events(events: list[Event]) -> None:
    pulled, failure = compare(lambda: iter(events))
    assert failure is None and sum(map(len, pulled)) == len(events)


@given(st.lists(_events | _odd, max_size=30), any_events() | no_events, st.lists(_events, max_size=3))
def test_one_of_any_kind_among_them(before: list[Event], event: Any, after: list[Event]) -> None:
    compare(lambda: iter([*before, event, *after]))


@pytest.mark.parametrize("place", [1, 3, 4, 7, 15, 16, 36])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Event("a", "b", after={"a": float("nan")}), "after.a: nan is not JSON"),
        (Event("", "b"), "actor: must have 1 to 255 characters, not 0"),
        (Event("a", "ledger.x"), "action: actions that begin with 'ledger.' are the ledger's own"),
        ("event", "event: must be an Event, not str"),
        (None, "event: must be an Event, not NoneType"),
    ],
)
def test_a_bad_event_is_named_by_its_number(place: int, bad: Any, said: str) -> None:
    events = [Event("a", "b", idempotency_key=str(number)) for number in range(1, place)]
    pulled, failure = compare(lambda: iter([*events, bad, *events]))
    assert failure is not None and failure[:2] == (InvalidEvent, f"event {place}: {said}")
    assert sum(map(len, pulled)) == place - 1


@pytest.mark.parametrize("error", [_Failed("failed"), InvalidEvent("a", "b"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("place", [0, 1, 3, 4, 40])
def test_an_iterator_that_raises(place: int, error: BaseException) -> None:
    def source() -> Iterator[Event]:
        for number in range(place):
            yield Event("a", "b", idempotency_key=str(number))
        raise error

    pulled, failure = compare(source)
    assert failure is not None and failure[0] is type(error)
    assert sum(map(len, pulled)) == place


class _Counting:
    """An iterator in Python, which may be asked again after its end."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __iter__(self) -> _Counting:
        return self

    def __next__(self) -> Event:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return Event("a", "b", after=self.left)


@pytest.mark.parametrize("count", [0, 1, 3, 12, 15, 47])
def test_an_iterator_of_ones_own(count: int) -> None:
    pulled, failure = compare(lambda: _Counting(count))
    assert failure is None and sum(map(len, pulled)) == count


def test_an_event_is_encoded_as_it_is_when_it_comes() -> None:
    """Whoever makes the events may use one dict, list and event for all of them."""

    def source() -> Iterator[Event]:
        body: dict[str, Any] = {"list": []}
        event = Event("a", "b", after=body)
        for number in range(40):
            body["number"] = number
            body["list"].append(number)
            yield event if number % 3 else Event(Text("a"), "b", after=body)

    pulled, _ = compare(source)
    texts = [draft[4] for batch in pulled for draft in batch]
    assert texts == [
        b'{"list":[%b],"number":%d}' % (b",".join(b"%d" % each for each in range(number + 1)), number)
        for number in range(40)
    ]


def test_random_parts_are_never_the_same() -> None:
    events = [Event("a", "b") for _ in range(300)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "FIRST_BATCH", 300)
        made = Gathering("main").pull(iter(events))
    assert len({draft.id for draft in made}) == len({draft.salt for draft in made}) == 300
    assert [draft.id for draft in made] == sorted(draft.id for draft in made)
    assert {draft.id.version for draft in made} == {7}
