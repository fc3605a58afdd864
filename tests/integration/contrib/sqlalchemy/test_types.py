"""Values are recorded as what they are."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Everything, Status

KEY = UUID("0192d5a0-0000-7000-8000-000000000001")
VALUES: dict[str, Any] = {
    "exact": Decimal("12345678901234567890.123456789012345678900"),
    "inexact": 0.1,
    "day": date(2026, 11, 29),
    "hour": time(12, 30, 0, 5),
    "naive": datetime(2026, 11, 29, 12, 30),
    "aware": datetime(2026, 11, 29, 12, 30, tzinfo=timezone(timedelta(hours=2))),
    "span": timedelta(days=1, seconds=1),
    "raw": b"\x00\xff",
    "numbers": [Decimal("1.10"), None],
    "tree": {"deep": [1, 1.5, True, None, {"ä": "ö"}]},
    "state": Status.SENT,
    "address": "192.0.2.1",
    "truth": False,
    "hidden": "plain text",
}
RECORDED: dict[str, Any] = {
    "exact": "12345678901234567890.123456789012345678900",
    "inexact": 0.1,
    "day": "2026-11-29",
    "hour": "12:30:00.000005",
    "naive": "2026-11-29T12:30:00",
    "aware": "2026-11-29T10:30:00Z",
    "span": "P1DT1S",
    "raw": "AP8=",
    "numbers": ["1.10", None],
    "tree": {"deep": [1, 1.5, True, None, {"ä": "ö"}]},
    "state": "SENT",
    "address": "192.0.2.1",
    "truth": False,
    "hidden": "cipher:txet nialp",
}
NULLS = dict.fromkeys(VALUES)


def test_each_type_in_a_flush(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Everything):
        sessions.transact(lambda session: session.add(Everything(id=KEY, **VALUES)))
        sessions.transact(lambda session: session.delete(session.get_one(Everything, KEY)))
    created, deleted = database.recorded()
    assert created.resource_id == str(KEY)
    assert created.after == deleted.before == {"id": str(KEY), **RECORDED}


def test_each_type_in_statements(database: Database, sessions: Sessions) -> None:
    with sessions.capture(Everything):
        sessions.transact(lambda session: session.execute(insert(Everything), [{"id": KEY, **VALUES}]))
        sessions.transact(lambda session: session.execute(update(Everything).values(**VALUES)))
        sessions.transact(lambda session: session.execute(update(Everything).values(**{**NULLS, "tree": None})))
    created, emptied = database.recorded()
    assert created.after == {"id": str(KEY), **RECORDED}
    assert (emptied.before, emptied.after) == (RECORDED, NULLS)


def test_the_same_value_in_another_form_is_no_change(database: Database, sessions: Sessions) -> None:
    same = {
        "exact": Decimal("12345678901234567890.1234567890123456789"),
        "aware": datetime(2026, 11, 29, 10, 30, tzinfo=UTC),
        "tree": {"deep": [1, 1.5, True, None, {"ä": "ö"}]},
    }

    def change(session: Any) -> None:
        row = session.get_one(Everything, KEY)
        for name, value in same.items():
            setattr(row, name, value)

    sessions.transact(lambda session: session.add(Everything(id=KEY, **VALUES)))
    with sessions.capture(Everything):
        sessions.transact(change)
        assert database.recorded() == []
        sessions.transact(
            lambda session: setattr(session.get_one(Everything, KEY), "tree", {"deep": [1, 1.5, 1, None, {"ä": "ö"}]})
        )
    [changed] = database.recorded()
    assert changed.before["tree"]["deep"][2] is True and changed.after["tree"]["deep"][2] == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know(database: Database, sessions: Sessions, value: str) -> None:
    row = {"exact": Decimal(value), "inexact": float(value), "tree": {"large": 10**30}}
    with sessions.capture(Everything):
        sessions.transact(lambda session: session.add(Everything(id=KEY, **row)))
    [created] = database.recorded()
    assert (created.after["exact"], created.after["inexact"]) == (value, value)
    assert created.after["tree"] == {"large": str(10**30)}
