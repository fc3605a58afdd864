"""Strategies of JSON: values that strain whoever reads them, as texts, and sound texts with one such value in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

DEEP = ("[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000)
VALUES = [
    *("null", "true", "false", "{}", "[]", '""', "0", "-1", "1.0", "1.5", "-0", "-0.0", "1e5", "1e400", "-1e400"),
    *("1e-400", "0e99999999999999999999", "0.1" + "0" * 400, "0." + "1" * 40, "9" * 400, "9" * 4300, "9" * 4301),
    *(str(2**power + more) for power in (31, 53, 63, 64) for more in (-1, 0, 1)),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u0000"',
        '"\x7f"',
        '"\u2028"',
        '"\U0010ffff"',
        '"\ufeff"',
    ),
    *('"' + "a" * length + '"' for length in (64, 65, 128, 129, 255, 256, 5000)),
    *('"2026-11-22T16:00:00"', '"2026-11-22T16:00:00.000007+01:00"', '"0001-01-01T00:00:00.000000+01:00"'),
    *('"9999-12-31T23:59:59.999999-01:00"', '"0001-01-01T00:00:00.000000Z"', '"2026-11-22"', '"2026-W47-7T00:00Z"'),
    *('"9999-12-31T23:59:60Z"', '"2026-11-22 16:00:00.000007Z"', '"2026-11-22T16:00:00.0000079Z"', '"infinity"'),
    *('"00000000-0000-0000-0000-000000000000"', '"{01930000-0000-7000-8000-000000000001}"'),
    *('"' + "0" * 64 + '"', '"' + "AB" * 32 + '"', '" ' + "ab" * 32 + '"', '"ledger.entry_erased"', '"main"'),
    *('{"a":1,"a":2}', '{"":{"":[{}]}}', '{"\\u0000":1}', '{"\\ud800":1}', '[1,"a",null,{"b":[]}]'),
    *DEEP,
]
"""Texts of values; not all of them are JSON that everybody reads."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null')

values = st.sampled_from(VALUES)


@st.composite
def strained(draw: st.DrawFn, seeds: Sequence[bytes], most: int = 3) -> bytes:
    """One of the JSON texts, with up to `most` of its strings, numbers and words (keys too) put to the test."""
    text = draw(st.sampled_from(seeds)).decode()
    for _ in range(draw(st.integers(1, most))):
        tokens = list(_TOKEN.finditer(text))
        if not tokens:
            break
        there = draw(st.sampled_from(tokens))
        text = text[: there.start()] + draw(values) + text[there.end() :]
    return text.encode()
