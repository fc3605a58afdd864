"""What the relay publishes of stored rows, by the native core and by Python."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.format import native
from ledger.format.findings import Link, Record
from ledger.stream import publish
from ledger.stream.publish import _Batch
from ledger.stream.wire import Wire
from tests.support.copy_messages import messages


def taken(rows: list[Any], before: Link, most_bytes: int, step: int, *, core: bool) -> Any:
    batch = _Batch("main", before)
    whole = messages(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "BATCH_BYTES", most_bytes)
        for start in range(0, len(whole), step):
            some = whole[start : start + step]
            if core:
                batch.take_messages(some)
            else:
                for row in filter(None, map(native.core.columns, some)):
                    batch.take(Record(*row))
    for entry in batch.entries:
        assert [*map(type, entry)] == [int, bytes, bytes, str, str]
    return batch.entries, batch.before, batch._size, batch._ends


def compare(rows: list[Any], before: Link, most_bytes: int = 2**22, step: int = 1000) -> list[Wire]:
    with_core = taken(rows, before, most_bytes, step, core=True)
    assert with_core == taken(rows, before, most_bytes, step, core=False)
    entries: list[Wire] = with_core[0]
    return entries
