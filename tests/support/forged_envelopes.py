"""Strategies of stream entries (format.md, "Stream entry"): sound ones, and such as a master of Redis could make.

Their hashes are true: what is wrong is what they say, or how they say it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from ledger.format.canonical import digest
from ledger.format.findings import Record
from tests.fuzz.json_texts import strained
from tests.fuzz.mutations import mutated
from tests.support.forged_rows import chains

Parts = tuple[bytes, bytes, bytes]
"""Envelope, body (empty where erased), hash in hex."""

CHANGES = [
    *(
        (b'"position":1', b'"position":' + number)
        for number in (b"01", b"1.0", b"1e0", b"+1", b"-1", b"0", b"2", b'"1"')
    ),
    *((b'"position":1', b'"position":%d' % number) for number in (2**63 - 1, 2**63, 2**64, 10**30)),
    *(
        (b'"v":1}', b'"v":' + end)
        for end in (b"2}", b"1.0}", b"1,}", b'1,"v":1}', b"1} ", b"1}\n", b"1 }", b"1", b"1}}")
    ),
    *((b'{"action":', start) for start in (b' {"action":', b'{ "action":', b'{"action" :', b'{"actor":"a","action":')),
    *((b'"actor_type":"user"', b'"actor_type":' + value) for value in (b'"us\\u0065r"', b'"\\/"', b'"\\\\"', b'"\\""')),
    *(
        (b'"actor_type":"user"', b'"actor_type":' + value)
        for value in (b"null", b'""', b"1", b'"\x00"', b'"\n"', b'"\x7f"')
    ),
    *((b'"actor_type":"user"', b'"actor_type":"' + text + b'"') for text in (b"\xff", b"\xed\xa0\x80", b"\xc3\xa9")),
    *((b'"actor_type":"user"', b'"actor_type":"' + b"a" * length + b'"') for length in (255, 256, 1024, 1025)),
    *((b'"actor_type":"user"', b'"actor_type":"' + "€".encode() * length + b'"') for length in (85, 86, 1024, 1025)),
    *((b'"ledger":"main"', b'"ledger":' + name) for name in (b'"Main"', b'"other"', b'""', b'"m\\u0061in"', b"null")),
    *(
        (b'"resource_id":null', b'"resource_id":' + value)
        for value in (b'"a"', b'""', b"nul", b"nulll", b"NULL", b"true")
    ),
    *((b'"resource_type":null', b'"resource_type":' + value) for value in (b'"a"', b'"null"', b"0", b"{}")),
    *((b',"v":1', b',"w":2,"v":1') for _ in "1"),
    *((b'"id":"', b'"id":"' + more) for more in (b"{", b"urn:uuid:", b" ", b"0")),
]
"""A part of a sound envelope, and what stands there instead."""
TIMES = [
    *("2026-01-01T12:34:60.000000Z", "2026-01-01T12:60:00.000000Z", "2026-01-01T24:34:00.000000Z"),
    *(
        "2026-02-30T00:00:00.000000Z",
        "2024-02-29T00:00:00.000000Z",
        "2100-02-29T00:00:00.000000Z",
        "2026-13-01T00:00:00.000000Z",
    ),
    *(
        "2026-00-01T00:00:00.000000Z",
        "2026-01-00T00:00:00.000000Z",
        "2026-01-01T23:59:60.000000Z",
        "2026-01-01T24:00:00.000000Z",
    ),
    *(
        "2026-01-01T00:60:00.000000Z",
        "0000-01-01T00:00:00.000000Z",
        "0001-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
    ),
    *(
        "10000-01-01T00:00:00.000000Z",
        "2026-01-01T00:00:00.00000Z",
        "2026-01-01T00:00:00.0000000Z",
        "2026-01-01T00:00:00Z",
    ),
    *(
        "2026-01-01 00:00:00.000000Z",
        "2026-01-01t00:00:00.000000z",
        "2026-01-01T00:00:00.000000+00:00",
        "2026-01-01T00:00:00,000000Z",
    ),
    *(
        "2026-01-01T00:00:00.000000",
        "+026-01-01T00:00:00.000000Z",
        "2026-1-01T000:00:00.000000Z",
        "٢026-01-01T00:00:00.00000Z",
    ),
    *("2026-04-31T00:00:00.000000Z", "2026-01-01T00:00:00.000000-01:00", "-001-01-01T00:00:00.000000Z", ""),
]
VALUES = [
    *(" 1", "1 ", "\t1", "1\n", "1 , 2", "\u00a01", "\ufeff1", "1,2", "1}", "/**/1", "", "{}", "{ }", "[ ]", "[1 ,2]"),
    *("01", "-", "-0", "-01", "1.", ".5", "1.5", "1e5", "1E+5", "1e", "1e+", "+1", "0x1", "1e400", "9" * 400),
    *("NaN", "Infinity", "tru", "truee", "True", "nul", "null", " null", '"null"', "0." + "9" * 400),
    *("[1,]", "[,1]", '{"a":1,}', '{"a" : 1}', '{"a":1,"a":2}', "{a:1}", '{"a"}', "{1:2}", "[[]", "[]]", "{]"),
    *(
        '"\\u0041"',
        '"\\ud800"',
        '"\\u00"',
        '"\\x"',
        '"\\/"',
        '"\\b\\f\\n\\r\\t\\"\\\\"',
        '"\t"',
        '"\x7f"',
        '"\0"',
        '"a',
    ),
    *('"' + "é" * 300 + '"', ',"before":', '",\\"before\\":"', '{"before":{"after":1}}'),
    *("[" * levels + "]" * levels for levels in (1, 63, 64, 65, 66, 1000)),
    *('{"a":' * levels + "1" + "}" * levels for levels in (64, 65)),
]
"""What may stand in a body as a value; not all of them are JSON."""
SALTS = ["", "00", "00" * 15, "00" * 17, "AB" * 16, " " * 32, "é" * 16, "\\u0030" + "0" * 31]
WHOLE = [
    *("{}", "null", "[]", " ", "x", '{"after":1,"before":2,"metadata":3}'),
    '{"before":null,"after":null,"metadata":null,"salt":"SALT"}',
    '{"after":1,"after":2,"before":3,"metadata":4,"salt":"SALT"}',
    '{"after":1,"before":2,"metadata":3,"salt":"SALT","more":1}',
    '{"after":1,"before":2,"metadata":3,"salt":"SALT"} ',
    ' {"after":1,"before":2,"metadata":3,"salt":"SALT"}',
    '{"after": 1,"before": 2 ,"metadata":{"a": [ ]} ,"salt":"SALT"}',
    '{"after":1 ,"before":2,"metadata":3,"salt": "SALT"}',
]


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    """Bodies as others might write them."""
    after, before, metadata = (draw(st.sampled_from(["null", "1", *VALUES])) for _ in range(3))
    salt = draw(st.sampled_from(["SALT"] * 20 + SALTS))
    made = body_of(after, before, metadata, salt)
    return draw(st.sampled_from([made] * 3 * len(WHOLE) + [whole_body(each) for each in WHOLE]))


def body_of(after: str = "null", before: str = "null", metadata: str = "null", salt: str = "SALT") -> bytes:
    return whole_body(f'{{"after":{after},"before":{before},"metadata":{metadata},"salt":"{salt}"}}')


def whole_body(text: str) -> bytes:
    return text.replace("SALT", "ab" * 16).encode()


def timed(envelope: bytes, member: str, text: str) -> bytes:
    """The envelope with this in the place of a time."""
    there = f'"{member}":"'.encode()
    start = envelope.find(there) + len(there)
    return envelope[:start] + text.encode() + envelope[start + 27 :]


def parts_of(record: Record) -> Parts:
    envelope, body = record.envelope("main"), record.body()
    return envelope or b"", body or b"", record.hash.hex().encode()


sound = chains(1).map(lambda rows: parts_of(Record(*rows[0])))


def rehashed(envelope: bytes, body: bytes, old: bytes) -> Parts:
    """The envelope names this body's hash in the place of the old one's, and has its own."""
    if body and old:
        envelope = envelope.replace(digest(old).hex().encode(), digest(body).hex().encode())
    return envelope, body, digest(envelope).hex().encode()


@st.composite
def forged(draw: st.DrawFn) -> Parts:
    envelope, body, _ = draw(sound)
    old = body
    for change in draw(
        st.lists(
            st.sampled_from(["envelope", "time", "body", "strain", "mutate", "strain body", "mutate body"]), max_size=2
        )
    ):
        match change:
            case "envelope":
                envelope = envelope.replace(*draw(st.sampled_from(CHANGES)), 1)
            case "time":
                envelope = timed(
                    envelope, draw(st.sampled_from(["occurred_at", "recorded_at"])), draw(st.sampled_from(TIMES))
                )
            case "body":
                body = draw(_bodies())
            case "strain":
                envelope = draw(_strained(envelope))
            case "mutate":
                envelope = draw(mutated([envelope], 2))
            case "strain body":
                body = draw(_strained(body)) if body else body
            case _:
                body = draw(mutated([body], 2))
    return rehashed(envelope, body, old)


def _strained(data: bytes) -> st.SearchStrategy[bytes]:
    try:
        data.decode()
    except UnicodeDecodeError:
        return st.just(data)
    return strained([data], 2)


def broken(parts: Parts) -> st.SearchStrategy[Sequence[bytes]]:
    """The same with any bytes in one of its places: no hash is made anew."""
    return st.tuples(st.integers(0, 2), mutated([parts[0], parts[1], parts[2]], 2)).map(
        lambda change: [change[1] if place == change[0] else part for place, part in enumerate(parts)]
    )
