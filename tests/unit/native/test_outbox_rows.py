"""Drafts of the outbox's rows: the native core makes the same as Python, and leaves to it what it cannot take."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.capture.outbox_rows import Waiting, draft_of, made_natively
from ledger.store.ledgers import LedgerRef

MAIN = LedgerRef(1, "main")
FIELDS = ("event", "id_bytes", "named", "occurred", "before", "after", "metadata")
NOW = datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC)


def row(**changes: Any) -> Waiting:
    return Waiting(
        7, UUID(int=2**127 + 5), False, NOW, None, "user:1", "user", "a.b", "invoice", "inv_7",
        None, None, None,
    )._replace(**changes)  # fmt: skip


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
texts = st.none() | st.tuples(values, st.sampled_from([None, 0, 2, "\t"]), st.booleans()).map(
    lambda given: json.dumps(given[0], indent=given[1], ensure_ascii=given[2])
)
plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=64)


@given(texts, texts, texts, plain, plain, st.datetimes(timezones=st.just(UTC)))
def test_the_same_drafts(
    before: str | None, after: str | None, metadata: str | None, actor: str, resource_id: str, occurred: datetime
) -> None:
    rows = [
        row(id=uuid4(), before=before, after=after, metadata=metadata, actor=actor, resource_id=resource_id),
        row(occurred_at=occurred, resource_type=None, resource_id=None),
    ]
    for waiting, made in zip(rows, made_natively(rows, MAIN), strict=True):
        assert made is not None
        made_by_python = draft_of(waiting, MAIN)
        for field in FIELDS:
            assert getattr(made, field) == getattr(made_by_python, field), field
        assert len(made.salt) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"actor": ""},
        {"actor": "u" * 256},
        {"action": "ledger.x"},
        {"resource_type": None},
        {"resource_id": None},
        {"recorded_at": NOW.astimezone(timezone(timedelta(hours=2)))},
        {"after": json.dumps("x" * 300_000)},
        {"id": "no UUID"},
        {"metadata": b"{}"},
    ],
)
def test_what_it_leaves_to_python(changes: dict[str, Any]) -> None:
    rows = [row(), row(**changes), row()]
    first, left, last = made_natively(rows, MAIN)
    assert left is None
    assert first is not None and last is not None
    assert first.salt != last.salt
