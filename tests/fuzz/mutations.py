"""Strategies that change sound bytes a little, as damage and malice do. What a parser never accepts teaches nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

NUMBERS = [
    *(b"0", b"00", b"-0", b"-1", b"1", b"+1", b"1_0", b" 1", b"1.0", b"1.5", b"1e2", b"1e400", b"-1e400"),
    *(b"%d" % (2**power + more) for power in (8, 31, 32, 53, 63, 64) for more in (-1, 0, 1)),
    *(b"9" * 400, b"9" * 4300, b"9" * 4301, b"1e-400", b"0e99999999999999999999", b"0." + b"0" * 400 + b"1"),
    *("٣".encode(), "²".encode(), b"NaN", b"Infinity", b"0x10", b"true"),
]
"""What may stand where a number stood."""
WORDS = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\\u0041", b"\xef\xbb\xbf", b"\x1b[2J", b"\x7f"),
    *(each.encode() for each in ("\u2028", "\u0085", "\u00a0", "\u202e", "— ", "é", "\U0010ffff")),
    *(b"\n", b"\n\n", b"\r\n", b"\r", b" ", b"\t", b"=", b"==", b"+", b"/", b"%", b"*", b"'", b'"', b"\\", b":"),
    *(b"{}", b"[]", b"null", b"{", b"}", b"[", b"]", b",", b'""', b"[" * 3000, b'{"a":' * 3000, b"A" * 5000),
    *(b"..", b"../", b"//", b"0001-01-01T00:00:00.000000Z", b"9999-12-31T23:59:59.999999Z", b"+01:00", b"Z"),
]
"""What may stand anywhere."""

_NUMBER = re.compile(rb"\d+")
_BITS = st.integers(0, 7)
_BYTE = st.integers(0, 255)
_words = st.sampled_from(WORDS) | st.binary(min_size=1, max_size=8)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], most: int = 4) -> bytes:
    """One of the seeds, changed up to `most` times."""
    data = draw(st.sampled_from(seeds))
    for change in draw(st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=most)):
        data = change(draw, data, seeds)
    return data


def texts(seeds: Sequence[str], most: int = 4) -> st.SearchStrategy[str]:
    """`mutated` of texts. What is no UTF-8 afterwards stands as lone surrogates, as in a command's arguments."""
    sound = [seed.encode("utf-8", "surrogateescape") for seed in seeds]
    return mutated(sound, most).map(lambda data: data.decode("utf-8", "surrogateescape"))


def _place(draw: st.DrawFn, data: bytes) -> int:
    return draw(st.integers(0, len(data)))


def _span(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    start = _place(draw, data)
    return start, min(len(data), start + draw(st.integers(0, 40)))


def _flip_bit(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ 1 << draw(_BITS)]) + data[at + 1 :]


def _set_byte(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = _place(draw, data)
    return data[:at] + bytes([draw(_BYTE)]) + data[at + 1 :]


def _insert(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = _place(draw, data)
    return data[:at] + draw(_words) + data[at:]


def _replace(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + draw(_words) + data[end:]


def _cut_out(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _cut_off(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = _place(draw, data)
    return draw(st.sampled_from([data[:at], data[at:]]))


def _repeat(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    return data[:end] + data[start:end] * draw(st.sampled_from([1, 2, 3, 100])) + data[end:]


def _splice(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw(st.sampled_from(seeds))
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def _number(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    there = draw(st.sampled_from(found))
    return data[: there.start()] + draw(st.sampled_from(NUMBERS)) + data[there.end() :]


def _lines(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Swaps two lines, drops one, doubles one, or takes one from elsewhere."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    strangers = draw(st.sampled_from(seeds)).splitlines(keepends=True) or [b"\n"]
    match draw(st.integers(0, 3)):
        case 0:
            lines[at], lines[other] = lines[other], lines[at]
        case 1:
            del lines[at]
        case 2:
            lines.insert(other, lines[at])
        case _:
            lines[at] = draw(st.sampled_from(strangers))
    return b"".join(lines)


def _line_ends(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\n\n", b"", b"\r"])))


def _case(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[start:end].swapcase() + data[end:]


_CHANGES: list[Callable[[st.DrawFn, bytes, Sequence[bytes]], bytes]] = [
    *(_flip_bit, _set_byte, _insert, _replace, _cut_out, _cut_off, _repeat, _splice, _number, _lines, _line_ends, _case)
]
