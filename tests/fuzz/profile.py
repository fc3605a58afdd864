"""How many examples a property gets: few and always the same in the suite, many and fresh with `make fuzz`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

LONG = os.environ.get("FUZZ_PROFILE") == "long"
CPU_SECONDS = 10.0
"""Processor time that one example may take: far more than any does, far less than one that hangs."""


def fuzz(examples: int) -> settings:
    """The decorator of a property. examples: in the suite; `make fuzz` tries ten times as many in each round."""
    return settings(
        max_examples=examples * (10 if LONG else 1),
        derandomize=not LONG,
        database=DirectoryBasedExampleDatabase(".hypothesis/fuzz") if LONG else None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def bounded() -> Iterator[None]:
    """What runs within may not take long, whatever else the machine does meanwhile."""
    began = time.thread_time()
    yield
    spent = time.thread_time() - began
    assert spent < CPU_SECONDS, f"it took {spent:.1f} s of processor time"
