"""The memory of sealers and readers grows neither with the backlog nor with large bodies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from ledger import Event, Ledger
from ledger.format.rules import MAX_BODY
from tests.support.backlog import PARTS
from tests.support.helpers import events

SMALL, LARGE = 8_000, 500
GROWTH, WITH_LARGE = 10, 120
"""MiB: by how much four times the backlog, and 128 MB of bodies in one row, may add to the most that a part takes."""


def large(count: int) -> Iterator[Event]:
    """Events whose bodies are as large as they may be."""
    text = "x" * (MAX_BODY - 200)
    return (Event("user:1", "thing.stored", "thing", f"t{number}", after=text) for number in range(count))


def peak(ledger: Ledger, part: str, count: int) -> int:
    """The most memory, in MiB, of a process that comes to so many entries."""
    env = os.environ | {
        "LEDGER_DATABASE_URL": ledger.settings.database_url or "",
        "LEDGER_REDIS_URL": ledger.settings.redis_url or "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.backlog", part],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["count"] == count
    return int(found["peak"])


@pytest.mark.timeout(600)
def test_no_part_holds_its_backlog(ledger: Ledger) -> None:
    """Some read on from where they stood, the others from the beginning."""
    goes_on = {"seal", "relay", "project", "subscribe"}
    peaks: dict[str, list[int]] = {part: [] for part in PARTS}
    done = 0
    for count, backlog in ((SMALL, events(SMALL)), (3 * SMALL, events(3 * SMALL)), (LARGE, large(LARGE))):
        while some := list(islice(backlog, 200)):
            ledger.record_many(some)
        done += count
        for part in PARTS:
            peaks[part].append(peak(ledger, part, count if part in goes_on else done))
    print(peaks)
    for part, (little, much, with_large) in peaks.items():
        assert much < little + GROWTH and with_large < little + WITH_LARGE, (part, peaks)
