"""A ledger in memory, for unit tests of applications. It accepts the same events as a Ledger, and keeps them.

    recorder = Recorder()
    send_invoice("inv_7", ledger=recorder)
    assert [each.action for each in recorder.events] == ["invoice.sent"]

Events are validated, encoded, chained and compared with duplicates by the Ledger's own code. There are no transactions
(an append with `connection=` is never rolled back), no reading and no verification.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from ledger.capture.context import all_in_context, in_context
from ledger.errors import ConditionFailed, IdempotencyConflict
from ledger.events import GENESIS, Appended, Event, Receipt, Tail, Unchanged
from ledger.format import chain
from ledger.format.canonical import Draft
from ledger.format.chain import ChainedDraft
from ledger.settings import check_ledger_name
from ledger.store.appender import Condition
from ledger.store.drafts import Gathering, prepare, pull
from ledger.store.idempotency import AlreadyRecorded, Conflict, Outcome, same_content


class Recorder:
    """`append`, `append_many` and `tail` of a Ledger. events: the recorded events, in order, as they would be read."""

    def __init__(self, name: str = "main") -> None:
        self.name = check_ledger_name(name)
        self.events: list[Event] = []
        self._links: dict[UUID, ChainedDraft] = {}
        self._tail = Tail(0, GENESIS, datetime.min.replace(tzinfo=UTC))
        self._lock = threading.Lock()

    def append(self, event: Event, *, connection: Any = None, expect: Condition | None = None) -> Receipt:
        """As Ledger.append. Raises InvalidEvent, IdempotencyConflict, ConditionFailed."""
        return self._record(prepare(in_context(event), self.name), expect).receipt()

    def append_many(self, events: Iterable[Event], *, connection: Any = None) -> Appended:
        """As Ledger.append_many."""
        gathering = Gathering(self.name)
        source = iter(all_in_context(events))
        while not gathering.failed and (drafts := gathering.pull(source)):
            self._record_all(gathering, drafts)
        return gathering.result()

    def tail(self) -> Tail:
        """Position, hash and time of the newest entry."""
        return self._tail

    def _record_all(self, gathering: Gathering, drafts: Iterable[Draft]) -> None:
        for draft in drafts:
            if not gathering.failed:
                gathering.add([self._record(draft, None)])

    def _record(self, draft: Draft, expect: Condition | None) -> Outcome:
        with self._lock:
            first = self._links.get(draft.id)
            if first is not None:
                if _is_repeat(draft, first.draft):
                    return AlreadyRecorded(first.receipt())
                problem = f"id {draft.id} was recorded at position {first.position} with other content"
                return Conflict(IdempotencyConflict(problem))
            self._check(expect)
            [link] = chain.extend(self._tail, [draft], datetime.now(UTC))
            self._tail = Tail(link.position, link.hash, link.recorded_at)
            self._links[draft.id] = link
            self.events.append(_as_read(draft))
            return link

    def _check(self, expect: Condition | None) -> None:
        if isinstance(expect, Unchanged):
            for position, event in enumerate(self.events, start=1):
                if position > expect.since and (event.resource_type, event.resource_id) == expect[:2]:
                    raise ConditionFailed(
                        f"{expect[0]}:{expect[1]} changed at position {position}, after {expect.since}"
                    )
        elif expect is not None and expect != self._tail.position:
            raise ConditionFailed(f"the ledger's tail is at position {self._tail.position}, not at {expect}")


class AsyncRecorder(Recorder):
    """`Recorder`, awaited: in place of an AsyncLedger."""

    async def append(  # type: ignore[override]
        self, event: Event, *, connection: Any = None, expect: Condition | None = None
    ) -> Receipt:
        return super().append(event, expect=expect)

    async def append_many(  # type: ignore[override]
        self, events: Iterable[Event] | AsyncIterable[Event], *, connection: Any = None
    ) -> Appended:
        gathering = Gathering(self.name)
        events = all_in_context(events)
        source = aiter(events) if isinstance(events, AsyncIterable) else iter(events)
        while not gathering.failed and (drafts := await pull(source, gathering)):
            self._record_all(gathering, drafts)
        return gathering.result()

    async def tail(self) -> Tail:  # type: ignore[override]
        return super().tail()


def _is_repeat(draft: Draft, first: Draft) -> bool:
    """Whether both drafts have the same content. An occurred_at that was not given is not compared."""
    return same_content(draft, first, with_time=draft.event.occurred_at is not None)


def _as_read(draft: Draft) -> Event:
    texts = {"before": draft.before, "after": draft.after, "metadata": draft.metadata}
    bodies = {name: None if text is None else msgspec.json.decode(text) for name, text in texts.items()}
    return msgspec.structs.replace(draft.event, **bodies)
