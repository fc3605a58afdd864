"""Envelopes and entries read back from their bytes: what is refused, of whatever hash."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec.structs import replace

from ledger.events import GENESIS, Entry
from ledger.format.canonical import body_bytes, digest, envelope
from ledger.format.decode import parse_envelope, read_entry

BODY = body_bytes(b"null", b'{"total": 1.10}', b"null", bytes(16))
TIME = datetime(2026, 11, 29, 12, 0, 0, 5, tzinfo=UTC)
ENTRY = Entry(
    *("main", 7, UUID(int=1), TIME, TIME, "user:42", "user", "invoice.updated", "invoice", "inv_7"),
    *(None, '{"total": 1.10}', None, bytes(16), digest(BODY), GENESIS, b""),
)
ENVELOPE = envelope(ENTRY)
BAD_ENVELOPES = {
    "a name that no ledger has": ENVELOPE.replace(b'"main"', b'"Main"'),
    "a name with a line break": ENVELOPE.replace(b'"main"', b'"main\\n"'),
    "a hash in capitals": ENVELOPE.replace(digest(BODY).hex().encode(), digest(BODY).hex().upper().encode()),
    "a hash with spaces": ENVELOPE.replace(b"00" * 32, b"00" * 31 + b"  "),
    "no hex": ENVELOPE.replace(b"00" * 32, b"xy" * 32),
    "a hash of 31 bytes": ENVELOPE.replace(b"00" * 32, b"00" * 31),
    "a hash of 33 bytes": ENVELOPE.replace(b"00" * 32, b"00" * 33),
    "no time zone": ENVELOPE.replace(b"000005Z", b"000005"),
    "another time zone": ENVELOPE.replace(b"000005Z", b"000005+01:00"),
    "position 0": ENVELOPE.replace(b'"position":7', b'"position":0'),
    "another version": ENVELOPE.replace(b'"v":1', b'"v":2'),
    "one field more": ENVELOPE.replace(b'"v":1', b'"v":1,"w":1'),
    "a space": ENVELOPE.replace(b'"v":1', b'"v": 1'),
}
NOT_CANONICAL = {
    *("a name that no ledger has", "a name with a line break", "a hash in capitals", "a hash with spaces", "a space"),
}
"""Those that `read_entry` leaves to whoever compares names and hashes."""


def test_an_entry_is_read_back() -> None:
    assert parse_envelope(ENVELOPE).encode() == ENVELOPE
    hashed = replace(ENTRY, hash=digest(ENVELOPE))
    assert read_entry(ENVELOPE, BODY, digest(ENVELOPE)) == hashed
    erased = replace(hashed, before_json=None, after_json=None, metadata_json=None, salt=None)
    assert read_entry(ENVELOPE, b"", digest(ENVELOPE)) == erased


@pytest.mark.parametrize("what", BAD_ENVELOPES)
def test_no_other_envelope_is_read(what: str) -> None:
    changed = BAD_ENVELOPES[what]
    assert changed != ENVELOPE
    with pytest.raises(ValueError, match=r"\S"):
        parse_envelope(changed)
    if what not in NOT_CANONICAL:
        with pytest.raises(ValueError, match=r"\S"):
            read_entry(changed, BODY, digest(changed))


@pytest.mark.parametrize(
    ("body", "hash_", "problem"),
    (
        (BODY, bytes(32), "its hash is not that of its envelope"),
        (BODY.replace(b"1.10", b"1.11"), digest(ENVELOPE), "body hash mismatch"),
        (b"{}", digest(ENVELOPE), "body hash mismatch"),
    ),
)
def test_an_entry_is_what_its_hashes_say(body: bytes, hash_: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_entry(ENVELOPE, body, hash_)
