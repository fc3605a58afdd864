"""Strategies of stored rows: sound chains of them, and such chains with some rows forged, as a superuser could.

A forged row may be hashed anew, and so may all that come after it: then only what it says is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from ledger.events import GENESIS
from ledger.format.canonical import body_bytes, digest
from ledger.format.findings import Record
from ledger.format.rules import MAX_BODY, Columns

FIRST_TIME, LAST_TIME = -63_082_281_600_000_000, 252_455_615_999_999_999
"""Of the years 0001-9999, in microseconds since 2000-01-01 UTC."""
SOUND_TIME = 850_000_000_000_000

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, min_size=1, max_size=20)
times = st.sampled_from(
    [FIRST_TIME, FIRST_TIME - 1, LAST_TIME, LAST_TIME + 1, -(2**63), 2**63 - 1, 0, -1, SOUND_TIME - 1]
) | st.integers(-(2**63), 2**63 - 1)
positions = st.sampled_from([0, 1, -1, 2, 2**63 - 1, -(2**63), 2**31]) | st.integers(-(2**63), 2**63 - 1)
_LONG = ("a", "é", "€", "\U0001f600")
long_texts = st.builds(
    str.__mul__, st.sampled_from(_LONG), st.sampled_from([63, 64, 65, 127, 128, 129, 254, 255, 256, 1020, 1021])
)
_ODD_TEXTS = ["", "\0", "a\0b", "ledger.", "ledger.entry_erased", "ledger", "Ledger.", '\x7f\x1f\\"/', "\u2028\ufeff"]
any_texts = texts | long_texts | st.sampled_from(_ODD_TEXTS)
_ODD_BYTES = [b"", b"\xff", b"a\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"]
no_texts = st.sampled_from(_ODD_BYTES)
_FRAME = len(body_bytes(b"", b"", b"", bytes(16)))
_ODD_BODIES = [
    *(b"", b"null", b" null", b"{}", b"[]", b"1", b"-0", b"1e400", b"01", b'"a\\u0041"', b'"\\\\u0041"', b'"\\ud800"'),
    *(b"{\n}", b"{\r}", b'"\xff"', b'"\\"', b"\\", b'"{{[["', b'{"a":1,"a":2}', b"\0", b'{"a": [1, 2]}'),
    *(b"[" * levels + b"]" * levels for levels in (62, 63, 64, 65, 300)),
    *(b'{"a":' * levels + b"1" + b"}" * levels for levels in (63, 64)),
    *(b'"' + b"a" * (MAX_BODY - _FRAME - 10 + more) + b'"' for more in (-1, 0, 1)),
]
bodies = st.none() | st.sampled_from(_ODD_BODIES) | st.binary(max_size=8)
_sound_bodies = st.none() | st.sampled_from([b"{}", b'{"a":[1,2.5,"\\n"]}', b'"\xc3\xa9"', b"true", b"[[]]"])
hashes = st.none() | st.binary(min_size=32, max_size=32) | st.sampled_from([b"", bytes(31), bytes(32), bytes(33)])
salts = st.none() | st.sampled_from([b"", bytes(15), bytes(17)]) | st.binary(min_size=16, max_size=16)

FORGERIES: dict[str, st.SearchStrategy[Any]] = {
    "position": st.none() | positions,
    "id": st.none() | st.binary(min_size=16, max_size=16),
    "recorded": st.none() | times,
    "occurred": st.none() | times,
    **dict.fromkeys(("actor", "actor_type", "action", "resource_type", "resource_id"), st.none() | any_texts),
    **dict.fromkeys(("before", "after", "metadata"), bodies),
    "salt": salts,
    **dict.fromkeys(("body_hash", "prev_hash", "hash"), hashes),
}
"""What each column of a forged row may hold."""


def hashed(row: Columns, ledger: str = "main") -> Columns:
    """The row with the hashes that belong to what it says, as far as it can have them."""
    record = Record(*row)
    body = record.body()
    if body is not None:
        record = record._replace(body_hash=digest(body))
    envelope = record.envelope(ledger)
    return record if envelope is None else record._replace(hash=digest(envelope))


@st.composite
def rows(draw: st.DrawFn, position: int, prev: bytes, recorded: int) -> Columns:
    """A sound row at that place; one of the ledger's own or an erased one at times."""
    kind = draw(st.integers(0, 9))
    erasure = position > 1 and kind == 0
    row = Columns(
        position=position,
        id=draw(st.binary(min_size=16, max_size=16)),
        recorded=recorded + draw(st.sampled_from([0, 1, 1_000_000])),
        occurred=draw(st.integers(FIRST_TIME, LAST_TIME)),
        actor=draw(texts),
        actor_type="user",
        action="ledger.entry_erased" if erasure else draw(texts.filter(lambda text: not text.startswith("ledger."))),
        resource_type="ledger.entry" if erasure else None,
        resource_id=str(draw(st.integers(1, position - 1))) if erasure else None,
        before=None if erasure else draw(_sound_bodies),
        after=None if erasure else draw(_sound_bodies),
        metadata=b'{"reason":"asked for"}' if erasure else draw(_sound_bodies),
        salt=draw(st.binary(min_size=16, max_size=16)),
        body_hash=bytes(32),
        prev_hash=prev,
        hash=bytes(32),
    )
    if not erasure and draw(st.booleans()):
        row = row._replace(resource_type=draw(texts), resource_id=draw(texts))
    row = hashed(row)
    return row.without_body() if kind == 1 else row


@st.composite
def chains(draw: st.DrawFn, most: int = 6, first: int = 1, prev: bytes = GENESIS) -> list[Columns]:
    made: list[Columns] = []
    recorded = SOUND_TIME
    for position in range(first, first + draw(st.integers(1, most))):
        row = draw(rows(position, prev, recorded))
        prev, recorded = row.hash, row.recorded
        made.append(row)
    return made


@st.composite
def forged_chains(draw: st.DrawFn, most: int = 6) -> list[Columns]:
    """A chain in which up to three columns of one or two rows are others; rows may be missing, twice or swapped."""
    chain = draw(chains(most))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(chain) - 1))
        columns = draw(st.lists(st.sampled_from(sorted(FORGERIES)), max_size=3))
        chain[at] = chain[at]._replace(**{column: draw(FORGERIES[column]) for column in columns})
        if draw(st.booleans()):
            _rehash(chain, at, onward=draw(st.booleans()))
    match draw(st.integers(0, 7)):
        case 0:
            del chain[draw(st.integers(0, len(chain) - 1))]
        case 1:
            chain.insert(draw(st.integers(0, len(chain))), draw(st.sampled_from(chain)))
        case 2:
            chain.reverse()
    return chain


def _rehash(chain: list[Columns], at: int, *, onward: bool) -> None:
    chain[at] = hashed(chain[at])
    for index in range(at + 1, len(chain) if onward else at + 1):
        chain[index] = hashed(chain[index]._replace(prev_hash=chain[index - 1].hash))


@st.composite
def damaged(draw: st.DrawFn, row: Sequence[Any]) -> list[Any]:
    """The row as values of a message, of which one is no text or has a bit flipped; its hash stays."""
    values = list(row)
    at = draw(st.integers(0, len(values) - 1))
    value = values[at]
    if isinstance(value, str):
        values[at] = draw(no_texts)
    elif isinstance(value, int):
        values[at] = value ^ 1 << draw(st.integers(0, 62))
    elif isinstance(value, bytes) and value:
        place = draw(st.integers(0, len(value) - 1))
        values[at] = value[:place] + bytes([value[place] ^ 1 << draw(st.integers(0, 7))]) + value[place + 1 :]
    return values
