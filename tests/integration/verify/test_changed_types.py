"""A column of another type, which no migration gave it: it is reported, and the entries are looked at all the same."""

from __future__ import annotations

import psycopg
import pytest

from ledger import Ledger
from tests.support.helpers import events


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("column", "kind", "expected"), [("position", "int", set()), ("id", "text", {"hash_mismatch"})]
)
def test_a_column_of_another_type(
    ledger: Ledger, admin: psycopg.Connection, column: str, kind: str, expected: set[str], workers: int
) -> None:
    ledger.append_many(events(20))
    admin.execute("alter table ledger.audit_logs disable trigger all")
    admin.execute("drop view ledger.entries cascade")
    admin.execute(f"alter table ledger.audit_logs alter column {column} type {kind}".encode())
    report = ledger.verify(workers=workers)
    assert {each.kind for each in report.findings} == {"unprotected"} | expected
    assert report.entries == 20 and any("audit_logs" in each.detail for each in report.findings)
