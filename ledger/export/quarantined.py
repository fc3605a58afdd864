"""What a bundle says of quarantined entries: the records, and the rows as they stood (format.md, "Bundle"). Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ledger.errors import EvidenceRefused
from ledger.format.actions import ERASED_TYPE
from ledger.format.canonical import digest
from ledger.format.decode import parse_body, parse_envelope
from ledger.format.quarantine_record import Mark, digests_of, mark_from, record_from
from ledger.format.times import microseconds

QUARANTINED = "quarantined.jsonl"
RECORD = b'{"action":"ledger.entry_quarantined",'
"""How the envelope of a record begins."""


class QuarantinedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of quarantined.jsonl. body: in hex, because it may be anything. row: as marks.row_json makes it."""

    body: str | None
    row: msgspec.Raw

    @staticmethod
    def encode(row: bytes, body: bytes | None) -> bytes:
        line = QuarantinedRow(None if body is None else body.hex(), msgspec.Raw(row))
        return msgspec.json.encode(line) + b"\n"


class Quarantine:
    """What a bundle says of quarantined entries. known: the records, by position; rows: what stood there."""

    def __init__(self, ledger: str, known: dict[int, list[Mark]], rows: dict[int, list[QuarantinedRow]]) -> None:
        self.ledger = ledger
        self.known = known
        self.rows = rows

    @classmethod
    def read(cls, ledger: str, lines: Iterable[tuple[bytes, bytes]], rows: Iterable[bytes]) -> Quarantine:
        """lines: envelopes and bodies of the records; rows: of quarantined.jsonl. Raises EvidenceRefused."""
        known: dict[int, list[Mark]] = {}
        for envelope, body in lines:
            mark = _mark_of(envelope, body, ledger)
            if mark is not None:
                known.setdefault(mark.position, []).append(mark)
        stored: dict[int, list[QuarantinedRow]] = {}
        for text in rows:
            try:
                row = msgspec.json.decode(text, type=QuarantinedRow)
                position = record_from(bytes(row.row)).position
                bytes.fromhex(row.body or "")
            except (TypeError, ValueError) as error:
                raise EvidenceRefused(f"{QUARANTINED} has a line that is no row: {error}") from None
            stored.setdefault(position, []).append(row)
        return cls(ledger, known, stored)

    def mark_of(self, position: int, envelope: bytes | None) -> Mark | None:
        """The record that names what stood at a position. envelope: the bundle's line, which must be the row's."""
        rows = self.rows.get(position, [])
        if envelope is not None and envelope not in [self._envelope(row) for row in rows]:
            return None
        bodies = [None if row.body is None else bytes.fromhex(row.body) for row in rows]
        present = digests_of([bytes(row.row) for row in rows], bodies)
        return next((mark for mark in reversed(self.known.get(position, [])) if mark.names(present)), None)

    def _envelope(self, row: QuarantinedRow) -> bytes | None:
        return record_from(bytes(row.row)).envelope(self.ledger)


def _mark_of(envelope: bytes, body: bytes, ledger: str) -> Mark | None:
    """The record that a line makes; None if it makes none."""
    try:
        parsed = parse_envelope(envelope)
        _, _, metadata, _ = parse_body(body)
    except ValueError:
        return None
    if parsed.ledger != ledger or parsed.resource_type != ERASED_TYPE or digest(body).hex() != parsed.body:
        return None
    recorded = microseconds(parsed.recorded_at)
    return mark_from(parsed.position, parsed.actor, recorded, parsed.resource_id, (metadata or "").encode())
