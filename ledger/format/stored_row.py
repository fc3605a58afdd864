"""A row of the ledger's own table as it is stored, whatever it holds, and what is wrong with it by itself. Pure."""

from __future__ import annotations

from ledger.format.canonical import body_bytes, digest, envelope_from, uuid_text
from ledger.format.entry_checks import body_flaw
from ledger.format.findings import Link
from ledger.format.rules import Columns
from ledger.format.times import timestamp_from


class Record(Columns):
    """A row as it is stored."""

    __slots__ = ()

    def envelope(self, ledger: str) -> bytes | None:
        """The envelope's bytes; None if a NULL or a time outside the years 0001-9999 leaves it without one."""
        try:
            return envelope_from(
                ledger,
                self.position,
                uuid_text(self.id),
                timestamp_from(self.recorded),
                timestamp_from(self.occurred),
                *self[4:9],
                self.body_hash,
                self.prev_hash,
            )
        except (AttributeError, OverflowError, TypeError):
            return None

    def body(self) -> bytes | None:
        """The body's bytes; None if it was erased."""
        return None if self.salt is None else body_bytes(self.before, self.after, self.metadata, self.salt)

    def link(self, envelope: bytes | None) -> Link:
        """What the next entry is judged by. envelope: this one's."""
        return Link(self.position, self.hash, None if envelope is None else digest(envelope), self.recorded)

    def body_flaw(self) -> str | None:
        """What is wrong with a body that stands, or with what is left of one; None if nothing is."""
        return body_flaw(self.body(), self.body_hash, left=self[9:12] != (None, None, None))
