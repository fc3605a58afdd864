"""The view `ledger.envelopes` has the hashed bytes, under any session settings."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg

from ledger import Event, Ledger
from ledger.format import canonical
from tests.support.helpers import checked


def test_the_view_envelopes_yields_the_hashed_bytes(ledger: Ledger, admin: psycopg.Connection) -> None:
    """For every character of the basic plane and some beyond, and at both ends of time."""
    characters = [chr(code) for code in (*range(1, 0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 997))]
    strings = ["".join(characters[start : start + 255]) for start in range(0, len(characters), 255)]
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
    ledger.append_many(
        Event(
            actor=text,
            actor_type=text[:64],
            action=text[-128:],
            resource_type="t",
            resource_id=text,
            occurred_at=ends[at % 2],
        )
        for at, text in enumerate(strings)
    )
    ledger.append(Event(actor="a", action="no.resource"))
    entries = checked(ledger)
    assert [entry.resource_id for entry in entries] == [*strings, None]
    rows = admin.execute("select envelope, hash from ledger.envelopes order by position").fetchall()
    assert [(text.encode(), bytes(hashed)) for text, hashed in rows] == [
        (canonical.envelope(entry), entry.hash) for entry in entries
    ]


def test_the_view_does_not_depend_on_the_session(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(Event(actor="a", action="b", occurred_at=datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC)))
    admin.execute("set timezone = 'Asia/Kathmandu'; set datestyle = 'SQL, DMY'; set bytea_output = 'escape'")
    [(envelope,)] = admin.execute("select envelope from ledger.envelopes").fetchall()
    assert envelope.encode() == canonical.envelope(next(iter(ledger.read())))
