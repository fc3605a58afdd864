"""The native core against Python: events, forged rows and forged stream entries."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger import Event
from ledger.format.findings import BEGINNING
from ledger.format.rules import Columns
from tests.fuzz.profile import bounded, fuzz
from tests.support.any_events import any_events, ordinary_events
from tests.support.both import checks, drafts, entries, needs_core, published
from tests.support.forged_envelopes import Parts, forged
from tests.support.forged_rows import SOUND_TIME, chains, damaged, forged_chains

pytestmark = needs_core

_steps = st.sampled_from([1, 2, 100])


@fuzz(60)
@given(ordinary_events(), st.integers(0, 2**63 - 1), st.binary(min_size=26, max_size=26))
def test_ordinary_events(event: Event, now: int, randomness: bytes) -> None:
    assert drafts.compare(event, now=now, randomness=randomness)


@fuzz(60)
@given(any_events(4), st.booleans())
def test_any_events(event: Event, own: bool) -> None:
    with bounded():
        try:
            drafts.of_python(event, own=own)
        except Exception:
            assert drafts.of_core(event, own=own) is None
        else:
            drafts.compare(event, own=own)


@fuzz(60)
@given(forged_chains(10), _steps)
def test_verification_of_forged_rows(rows: list[Columns], step: int) -> None:
    rows = [row for row in rows if row.position is not None]
    with bounded():
        for row in rows:
            if isinstance(row.recorded, int) and row.position > -(2**63):
                checks.compare_one(row, checks.before(row))
        checks.compare_runs(rows, BEGINNING, {}, step)


@fuzz(60)
@given(forged_chains(10), _steps, st.sampled_from([1, 1000, 3000, 2**22]))
def test_publishing_of_forged_rows(rows: list[Columns], step: int, most_bytes: int) -> None:
    rows = [row for row in rows if row.position is not None]
    with bounded():
        published.compare(rows, BEGINNING, most_bytes, step)


@fuzz(60)
@given(forged_chains(4), chains(1).flatmap(lambda rows: damaged(rows[0])))
def test_reading_of_forged_rows(rows: list[Columns], values: list[Any]) -> None:
    with bounded():
        entries.compare_rows(rows)
        checks.compare_one(values, BEGINNING._replace(recorded=SOUND_TIME))


@fuzz(60)
@given(forged())
def test_forged_stream_entries(parts: Parts) -> None:
    with bounded():
        entries.compare_parts(parts)
        entries.both([b"envelope", parts[0], b"body", parts[1], b"hash", parts[2]])
