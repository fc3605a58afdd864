"""Events in a context: whose actor and metadata they have. The same with both cores, one by one and in batches."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger import Event, InvalidEvent
from ledger.capture import audit_context, bind
from ledger.capture.context import all_in_context, in_context
from ledger.format import native
from ledger.testing import AsyncRecorder, Recorder

NOBODY = r"actor: must be a string, not NoneType: name who did it, or do it within audit_context\(actor=…\)"
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["native", "python"])
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(native, "core", None)
        monkeypatch.setattr(native, "encoder", None)
    elif native.encoder is None:
        pytest.skip("needs the native core")


@pytest.fixture
def recorder(core: None) -> Recorder:
    return Recorder()


def test_without_a_context_an_event_is_untouched() -> None:
    event = Event("user:1", "a.b", metadata={"x": 1})
    assert in_context(event) is event
    events = [event]
    assert all_in_context(events) is events


def test_an_event_takes_the_contexts_actor_if_it_has_none() -> None:
    with audit_context("billing", actor_type="service"):
        assert in_context(Event(None, "a.b")) == Event("billing", "a.b", actor_type="service")
        assert in_context(Event("", "a.b", actor_type="robot")) == Event("billing", "a.b", actor_type="service")
        own = Event("user:1", "a.b")
        assert in_context(own) is own
    with audit_context("user:2"):
        assert in_context(Event(None, "a.b", actor_type="robot")) == Event("user:2", "a.b", actor_type="robot")


@dataclass
class Why:
    reason: str
    source: dict[str, Any]


class Because(msgspec.Struct):
    reason: str


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, {"reason": "context", "source": {"ip": "::1", "port": 1}}),
        ({"reason": "own"}, {"reason": "own", "source": {"ip": "::1", "port": 1}}),
        ({"source": {"port": 2}, "x": 1}, {"reason": "context", "source": {"ip": "::1", "port": 2}, "x": 1}),
        ({"source": None}, {"reason": "context", "source": None}),
        (Why("own", {"port": 3}), {"reason": "own", "source": {"ip": "::1", "port": 3}}),
        (Because("own"), {"reason": "own", "source": {"ip": "::1", "port": 1}}),
        (["a"], {"reason": "context", "source": {"ip": "::1", "port": 1}, "value": ["a"]}),
        (7, {"reason": "context", "source": {"ip": "::1", "port": 1}, "value": 7}),
    ],
)
def test_metadata_is_merged_and_the_events_own_wins(recorder: Recorder, own: Any, expected: dict[str, Any]) -> None:
    event = Event("user:1", "a.b", metadata=own)
    with audit_context(reason="context", source={"ip": "::1", "port": 1}):
        recorder.append(event)
        recorder.append_many([event])
    assert [each.metadata for each in recorder.events] == [expected, expected]
    assert event.metadata is own


def test_metadata_that_cannot_be_recorded_is_refused_as_ever(recorder: Recorder) -> None:
    with audit_context("user:1", reason="x"):
        with pytest.raises(InvalidEvent, match=r"^metadata\.a\.b: nan is not JSON"):
            recorder.append(Event(None, "a.b", metadata={"a": {"b": float("nan")}}))
        with pytest.raises(InvalidEvent, match=r"^metadata\.value: "):
            recorder.append(Event(None, "a.b", metadata=object()))
    assert recorder.events == []


def test_without_any_actor_the_event_is_refused(recorder: Recorder) -> None:
    with pytest.raises(InvalidEvent, match=r"^actor: must have 1 to 255 characters, not 0$"):
        recorder.append(Event("", "a.b"))
    with pytest.raises(InvalidEvent, match=f"^{NOBODY}$"):
        recorder.append(Event(None, "a.b"))
    with pytest.raises(InvalidEvent, match=rf"^event 2: {NOBODY}\n"):
        recorder.append_many([Event("user:1", "a.b"), Event(None, "a.b")])
    with audit_context(reason="x"):
        with pytest.raises(InvalidEvent, match=f"^{NOBODY}$"):
            recorder.append(Event(None, "a.b"))
        with pytest.raises(InvalidEvent, match=rf"^event 2: {NOBODY}\n"):
            recorder.append_many([Event("user:1", "a.b"), Event(None, "a.b")])
        with pytest.raises(InvalidEvent, match=r"^event: must be an Event, not str"):
            recorder.append("x")
        with pytest.raises(InvalidEvent, match=r"^event 1: event: must be an Event, not NoneType"):
            recorder.append_many([None])
    assert [(event.actor, event.metadata) for event in recorder.events] == [
        ("user:1", None), ("user:1", {"reason": "x"})
    ]  # fmt: skip


def test_append_many_takes_the_context_that_it_is_called_in(recorder: Recorder) -> None:
    def events() -> Iterator[Event]:
        for number in range(3):
            bind(f"user:{number}")
            yield Event(None, "a.b", metadata={"number": number})

    with audit_context("user:7", tx="9"):
        recorder.append_many(events())
    assert [(event.actor, event.metadata) for event in recorder.events] == [
        ("user:7", {"number": number, "tx": "9"}) for number in range(3)
    ]


def test_what_the_iterable_raises_passes_through(recorder: Recorder) -> None:
    def events() -> Iterator[Event]:
        yield Event(None, "a.b")
        raise KeyError("own")

    with audit_context("user:1"), pytest.raises(KeyError, match="own"):
        recorder.append_many(events())
    assert len(recorder.events) == 1


def test_the_async_recorder_does_the_same(core: None) -> None:
    async def events() -> AsyncIterator[Event]:
        yield Event(None, "a.b")
        yield Event("user:2", "a.b")

    async def main() -> Any:
        recorder = AsyncRecorder()
        async with audit_context("user:1", tx="9"):
            await recorder.append(Event(None, "a.b"))
            await recorder.append_many(events())
            await recorder.append_many([Event(None, "a.b")])
        return recorder.events

    recorded = asyncio.run(main())
    assert [event.actor for event in recorded] == ["user:1", "user:1", "user:2", "user:1"]
    assert all(event.metadata == {"tx": "9"} for event in recorded)


def test_the_example_of_the_vocabulary_runs(recorder: Recorder) -> None:
    text = (ROOT / "docs/vocabulary.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(example, {"ledger": recorder, "Event": Event})  # noqa: S102
    [event] = recorder.events
    assert (event.actor, event.action) == ("user:42", "invoice.sent")
    assert set(event.metadata) == {"source", "request", "reason"}
