"""The things of the ledger: an Event is created, an Entry is recorded, a Receipt is returned, a Tail is continued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from ledger.errors import BodyUnreadable

GENESIS = bytes(32)
"""The `prev` of the first entry, and the hash of an empty ledger's tail (format.md, "Terms")."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller says happened: who did what to which resource.

    actor, action: who and what, e.g. `user:42`, `invoice.updated`; 1-255 and 1-128 characters. An actor of None is the
    running context's (`ledger.capture.audit_context`).
    resource_type, resource_id: on what; both or neither; 1-64 and 1-255 characters.
    actor_type: what kind of actor; 1-64 characters.
    before, after, metadata: anything msgspec encodes as JSON; at most 256 KiB together.
    id: a UUID of your own, which makes the append idempotent; or
    idempotency_key: any text of your own that does the same. Without either the entry gets a UUIDv7.
    occurred_at: an aware datetime; by default the time of the append.

    Actor and resource_id can never be erased: use keys there, and put personal data into the body.
    """

    actor: str | None
    action: str
    resource_type: str | None = None
    resource_id: str | None = None
    actor_type: str = "user"
    before: Any = None
    after: Any = None
    metadata: Any = None
    id: UUID | None = None
    idempotency_key: str | None = None
    occurred_at: datetime | None = None


class Tail(NamedTuple):
    """The end of a ledger: position and hash (32 bytes) of its newest entry, and when that was recorded."""

    position: int
    hash: bytes
    recorded_at: datetime


class Receipt(msgspec.Struct, frozen=True):
    """What an append hands out once the entry is durable. `hash` is the entry's own, 32 bytes."""

    id: UUID
    position: int
    hash: bytes
    recorded_at: datetime


class Appended(msgspec.Struct, frozen=True):
    """What append_many hands out: how many entries it recorded, and the receipt of the last event.

    Unpacks: `count, last = ledger.append_many(events)`. Events that had been recorded before are not counted again.
    """

    count: int
    last: Receipt | None

    def __iter__(self) -> Iterator[Any]:
        yield self.count
        yield self.last


class Unchanged(NamedTuple):
    """A condition: nothing about this resource was recorded after position `since`."""

    resource_type: str
    resource_id: str
    since: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event as recorded at one position of one ledger. Field for field a row of `ledger.audit_logs`.

    The JSON texts are kept as stored, because they are what was hashed; `before`, `after` and `metadata` decode them,
    and raise BodyUnreadable for what only another writer could have stored.
    salt is None where the body was erased.
    """

    ledger: str
    position: int
    id: UUID
    recorded_at: datetime
    occurred_at: datetime
    actor: str
    actor_type: str
    action: str
    resource_type: str | None
    resource_id: str | None
    before_json: str | None
    after_json: str | None
    metadata_json: str | None
    salt: bytes | None
    body_hash: bytes
    prev_hash: bytes
    hash: bytes

    @property
    def before(self) -> Any:
        return self._decoded("before", self.before_json)

    @property
    def after(self) -> Any:
        return self._decoded("after", self.after_json)

    @property
    def metadata(self) -> Any:
        return self._decoded("metadata", self.metadata_json)

    @property
    def erased(self) -> bool:
        """Is the body gone? Whether it may be is for `verify` to say."""
        return self.salt is None

    @property
    def tail(self) -> Tail:
        """The tail that the entry after this one continues."""
        return Tail(self.position, self.hash, self.recorded_at)

    def _decoded(self, name: str, text: str | None) -> Any:
        try:
            return None if text is None else msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            raise BodyUnreadable(f"entry {self.position}: {name} cannot be read ({error}); its text can") from None


class Quarantined(NamedTuple):
    """What stands for an entry that does not hold, where the ledger has it on record that work goes on past it.

    hash: by which the chain goes on, 32 bytes; zeros where only another missing entry follows. recorded_at: of the
    newest entry before it. by: the position of the record, an entry `ledger.entry_quarantined`.
    """

    position: int
    hash: bytes
    recorded_at: datetime
    by: int

    @property
    def tail(self) -> Tail:
        return Tail(self.position, self.hash, self.recorded_at)


Seen: TypeAlias = Entry | Quarantined
"""What a reader comes past, position by position."""
