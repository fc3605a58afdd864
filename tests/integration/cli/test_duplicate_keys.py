"""Duplicate keys of JSON objects are refused, with line and path."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.cli.commands.import_file import BadLine, Import
from ledger.cli.duplicates import DuplicateKey, refuse_duplicates
from ledger.cli.params import exact_json

GOOD = b'{"actor":"user:1","action":"a.b"}\n'
TWICE = [
    (rb'{"a":1,"a":1}', "a"),
    (rb'{"a":1,"b":2,"a":null}', "a"),
    (rb'{"a": 1, "a" : 2}', "a"),
    (b'{"a":1,"a"\t:2}', "a"),
    (b'{"a":1,"a"\r\n:2}', "a"),
    (rb'{"a":1,"\u0061":2}', "a"),
    (rb'{"\ud83d\ude00":1,"\uD83D\uDE00":2}', '["\\ud83d\\ude00"]'),
    ('{"é":1,"\\u00e9":2}'.encode(), '["\\u00e9"]'),
    (rb'{"user":{"name":"x","name":"y"}}', "user.name"),
    (rb'{"user":{"name":"x","other":{"name":"y"}},"list":[1,{"a":[{"b":{},"b":[]}]}]}', "list[1].a[0].b"),
    (rb'[[{"a":1,"a":2}]]', "[0][0].a"),
    (rb'{"":1,"":2}', '[""]'),
    (rb'{"a.b":1,"a.b":2}', '["a.b"]'),
    (rb'{"a":{"x":1},"a":{"y":":"}}', "a"),
    (rb'{"a":":","a":":","b":":"}', "a"),
    (rb'{"a":"\":","a":"x"}', "a"),
    (rb'{"a":[":",":"],"a":1}', "a"),
    (rb'{"a":"\u003a","a":1}', "a"),
    (rb'{"a":1e400,"a":12345678901234567890123456789}', "a"),
]
ONCE: list[Any] = [
    {}, [], {"a": {"a": {"a": 1}}}, [{"a": 1}, {"a": 2}], {"a": ":", "b": '":', "c": '\\":'}, {"a ": 1, "a": 2},
    {"a": "a", "A": 1}, {"é": 1, "e\u0301": 2}, {"": {"": 1}}, {'"': 1, '":': 2}, {"a": "user:1"}, 2**70, "text", None,
]  # fmt: skip


@pytest.mark.parametrize(("text", "path"), TWICE)
def test_the_second_one_is_named(text: bytes, path: str) -> None:
    with pytest.raises(DuplicateKey) as refused:
        refuse_duplicates(text, msgspec.json.decode(text, type=Any) if b"1e400" not in text else {"a": 1})
    assert str(refused.value) == f"{path}: the key is given twice"


@pytest.mark.parametrize("value", ONCE)
@pytest.mark.parametrize("options", [{}, {"separators": (",", ":")}, {"indent": 1}, {"separators": (" , ", " : ")}])
def test_one_without_is_taken_as_it_is(value: Any, options: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        assert exact_json(json.dumps(value, ensure_ascii=ascii_only, **options).encode()) == value


texts = st.text(st.sampled_from(['"', ":", "\\", "a", "b", " ", "é"]), max_size=3)
pairs = st.recursive(
    st.integers(-3, 3).map(str) | texts.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.tuples(st.lists(st.tuples(texts, inner), max_size=4), st.sampled_from([":", " :", ": "])).map(
            lambda made: f"{{{','.join(f'{json.dumps(key)}{made[1]}{item}' for key, item in made[0])}}}"
        )
    ),
    max_leaves=10,
)


@given(pairs)
def test_it_finds_what_a_slow_search_finds(text: str) -> None:
    found = []

    def hook(some: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(len(dict(some)) != len(some))
        return dict(some)

    json.loads(text, object_pairs_hook=hook)
    try:
        refuse_duplicates(text.encode(), msgspec.json.decode(text))
        refused = False
    except DuplicateKey:
        refused = True
    assert refused == any(found)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b'{"actor":"user:1","actor":"user:2","action":"a.b"}', "actor"),
        (b'{"actor":"user:1","action":"a.b","before":null,"before":null}', "before"),
        (b'{"actor":"user:1","action":"a.b","after":{"user":{"name":1,"n\\u0061me":2}}}', "after.user.name"),
        (b'{"actor":"user:1","action":"a.b","metadata":[{"a":1, "a":1}]}', "metadata[0].a"),
        (b'{"actor":"user:1","action":"a.b","resource_type":"x","resource_id":"1","resource_id":"2"}', "resource_id"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_of_an_import(tmp_path: Path, line: bytes, path: str, compressed: bool) -> None:
    file = tmp_path / "events"
    data = GOOD * 2 + line + b"\n" + GOOD
    file.write_bytes(gzip.compress(data) if compressed else data)
    with (
        Import(str(file), "events") as source,
        pytest.raises(BadLine, match=rf"^line 3 of .*events: {path.replace('[', '.')[:6]}".replace(".", ".")) as bad,
    ):
        list(source.events(lambda *_: None))
    assert str(bad.value).endswith(f": {path}: the key is given twice")


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BufferedReader(io.BytesIO(GOOD + b'{"actor":"u","action":"a","after":{"x":1,"x":1}}'))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
    with Import("-", "events") as source, pytest.raises(BadLine, match=r"^line 2 of stdin: after\.x: the key is given"):
        list(source.events(lambda *_: None))


def test_cloudtrail(tmp_path: Path) -> None:
    record = (
        '{"eventSource":"s3.amazonaws.com","eventName":"PutObject","eventTime":"2026-11-29T12:00:00Z",'
        '"eventID":"00000000-0000-0000-0000-000000000001"%s}'
    )
    file = tmp_path / "trail"
    lines = [record % "", record % ',"requestParameters":{"key":"a","key":"b"}', record % ',"eventName":"GetObject"']
    for name, text, place in (
        ("line", "\n".join(lines[:2]), "line 2 of"),
        ("file", f'{{"Records":[{lines[0]},{lines[1]}]}}', "line 1 of"),
    ):
        file.write_text(text)
        with Import(str(file), "cloudtrail") as source, pytest.raises(BadLine, match=rf"^{place} .*trail: ") as bad:
            list(source.events(lambda *_: None))
        where = "" if name == "line" else "Records[1]."
        assert str(bad.value).endswith(f"{where}requestParameters.key: the key is given twice")
    file.write_text(lines[2])
    with Import(str(file), "cloudtrail") as source, pytest.raises(BadLine, match="eventName: the key is given twice"):
        list(source.events(lambda *_: None))
