"""The loop of the workers: its pauses, a server that is unreachable, and backing off."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from ledger.errors import ChainBroken, Unavailable
from ledger.store.worker import Pauses, backoff, run_until
from ledger.telemetry import COUNTERS, FAILURES

log = logging.getLogger("ledger.test")
PAUSES = Pauses(busy=1.0, idle=3.0, retry=10.0)


class Stop:
    """An event that is set after so many pauses, and remembers them."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.pauses: list[float] = []

    def is_set(self) -> bool:
        return len(self.pauses) >= self.after

    def wait(self, pause: float) -> bool:
        self.pauses.append(pause)
        return self.is_set()


def pauses_of(*steps: bool | Exception, job: str | None = None) -> list[float]:
    stop, left = Stop(len(steps)), iter(steps)

    def step() -> bool:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    run: Callable[..., None] = run_until
    run(stop, step, PAUSES, log=log, job=job)
    return stop.pauses


def test_pauses_grow_while_there_is_nothing_to_do() -> None:
    assert pauses_of(True, False, False, False, True, False) == [1.0, 2.0, 3.0, 3.0, 1.0, 2.0]


def test_an_unreachable_server_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    def failures() -> int:
        return COUNTERS.sums(FAILURES).get(("a job", "Unavailable", ""), 0)

    before = failures()
    away = Unavailable("Redis does not answer")
    assert pauses_of(True, away, away, True, False, job="a job") == [1.0, 10.0, 10.0, 1.0, 2.0]
    assert failures() == before + 2
    assert [record.getMessage() for record in caplog.records] == ["Redis does not answer; trying again"] * 2
    assert pauses_of(away) == [10.0]
    assert failures() == before + 2


def test_any_other_error_ends_the_loop() -> None:
    with pytest.raises(ChainBroken):
        pauses_of(True, ChainBroken(1, "it does not hold", "main"), True)


def test_nothing_is_done_after_a_stop() -> None:
    assert pauses_of() == []


def test_backing_off_has_an_end() -> None:
    """However many attempts there were: a projection may be blocked for days."""
    assert [backoff(attempts, 0.5, 30.0) for attempts in (1, 2, 3, 7, 8, 5000)] == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]
