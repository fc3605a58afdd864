"""Extends a tail by drafts; checks that entries continue one another. Pure: no clock, no input or output."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from ledger.errors import ChainBroken
from ledger.events import Entry, Receipt, Tail
from ledger.format import native
from ledger.format.canonical import Draft, body, digest, envelope, envelope_of
from ledger.format.findings import body_flaw
from ledger.format.times import microseconds, timestamp


class ChainedDraft(msgspec.Struct, frozen=True, gc=False):
    """A draft in its place. Hashes: 32 bytes."""

    is_new: ClassVar[bool] = True
    draft: Draft
    position: int
    prev: bytes
    hash: bytes
    recorded_at: datetime

    def receipt(self) -> Receipt:
        """What its caller gets once it is durable."""
        return Receipt(self.draft.id, self.position, self.hash, self.recorded_at)


class Links(Sequence[ChainedDraft]):
    """Drafts as the entries after a tail. Each is hashed when it is first asked for: append_many sends those before."""

    def __init__(self, tail: Tail, drafts: Sequence[Draft], recorded_at: datetime) -> None:
        """recorded_at: of all of them; aware, UTC."""
        self._tail = tail
        self._drafts = drafts
        self._recorded_at = recorded_at
        self._stamp = timestamp(recorded_at)
        self._made: list[ChainedDraft] = []

    def __len__(self) -> int:
        return len(self._drafts)

    def __getitem__(self, index: Any) -> Any:
        """Of one link; a slice is not taken."""
        wanted = range(len(self._drafts))[operator.index(index)]
        while len(self._made) <= wanted:
            self._add()
        return self._made[wanted]

    def __iter__(self) -> Iterator[ChainedDraft]:
        for index in range(len(self._drafts)):
            if index == len(self._made):
                self._add()
            yield self._made[index]

    def _add(self) -> None:
        index = len(self._made)
        position = self._tail.position + 1 + index
        prev = self._made[-1].hash if index else self._tail.hash
        draft = self._drafts[index]
        entry_hash = digest(envelope_of(draft, position, prev, self._stamp))
        self._made.append(ChainedDraft(draft, position, prev, entry_hash, self._recorded_at))


_LAST = 2**63 - 1
"""The last position that Postgres can store."""
LINKS: tuple[Any, ...] = (Links,) if native.core is None else (Links, native.Links)
"""What `extend` returns, for isinstance."""


def extend(tail: Tail, drafts: Sequence[Draft], now: datetime) -> Links:
    """The drafts as the entries after `tail`.

    now: aware, UTC. recorded_at never runs back, whatever the clock does (format.md, "Envelope").
    Raises ChainBroken for a tail that no entry can follow.
    """
    if len(tail.hash) != 32 or tail.position > _LAST - len(drafts):
        raise ChainBroken(tail.position, "no entry can follow it: the row of the tail was forged")
    recorded_at = max(now, tail.recorded_at)
    if native.core is None:
        return Links(tail, drafts, recorded_at)
    links: Links = native.core.Links(
        native.encoder, drafts, tail.position, tail.hash, microseconds(recorded_at), recorded_at
    )
    return links


def check_continues(tail: Tail, entries: Iterable[Entry]) -> Tail:
    """The tail after `entries`, or ChainBroken at the first that does not continue the one before it.

    Checks of each entry: position, link, time, the envelope's hash, and the body's where there is one.
    """
    for entry in entries:
        check_link(tail, entry)
        check_entry(entry)
        tail = entry.tail
    return tail


def check_link(tail: Tail, entry: Entry) -> None:
    """Raises ChainBroken if the entry's position, link or time does not continue `tail`."""
    if entry.position != tail.position + 1:
        raise ChainBroken(entry.position, f"does not follow entry {tail.position}")
    if entry.prev_hash != tail.hash:
        raise ChainBroken(entry.position, f"its prev is not the hash of entry {tail.position}")
    if entry.recorded_at is not None and entry.recorded_at < tail.recorded_at:
        raise ChainBroken(entry.position, f"recorded earlier than entry {tail.position}")


def check_entry(entry: Entry) -> None:
    """Raises ChainBroken if the entry's hash is not its envelope's, or its body not the one its envelope names."""
    try:
        true = digest(envelope(entry)) == entry.hash
    except (AttributeError, OverflowError, TypeError):
        raise ChainBroken(entry.position, "it has no envelope: a NULL, or a time out of range") from None
    if not true:
        raise ChainBroken(entry.position, "its hash is not the hash of its envelope")
    left = (entry.before_json, entry.after_json, entry.metadata_json) != (None, None, None)
    flaw = body_flaw(body(entry), entry.body_hash, left=left)
    if flaw is not None:
        raise ChainBroken(entry.position, flaw)
