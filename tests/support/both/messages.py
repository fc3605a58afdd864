"""Messages of any bytes, taken by everything in the native core that takes messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledger.events import GENESIS
from ledger.format import native

NO_ROW = "a message of COPY is not a row of ledger.audit_logs"


def take_columns(taken: list[bytes]) -> None:
    for each in taken:
        native.core.columns(each)


def take_check(taken: list[bytes]) -> None:
    check = native.core.Check("main", set(), True)
    check.go_on(0, GENESIS, GENESIS, 0)
    for start in (0, len(taken) // 2, len(taken), len(taken) + 1, 2**63):
        entries, index = check.take(taken, start)
        assert start <= index <= max(start, len(taken)) and entries <= len(taken)


def take_publish(taken: list[bytes]) -> None:
    publish = native.core.Publish("main")
    for start in (0, len(taken) // 2, len(taken), len(taken) + 1):
        publish.go_on(0, None, None, None)
        made: list[Any] = []
        size, index = publish.take(taken, start, 2**40, made)
        assert start <= index <= max(start, len(taken)) and size == sum(len(each[1] + each[2]) for each in made)


def take_entries(taken: list[bytes]) -> None:
    native.entries.take("main", taken, [])


TAKERS: list[Callable[[list[bytes]], None]] = [take_columns, take_check, take_publish, take_entries]


def tried(taken: list[bytes]) -> None:
    """A panic comes as a BaseException that is no Exception."""
    for take in TAKERS:
        try:
            take(taken)
        except ValueError as error:  # UnicodeDecodeError is one
            assert isinstance(error, UnicodeDecodeError) or str(error) == NO_ROW
