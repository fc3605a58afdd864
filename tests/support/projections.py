"""Small projections for tests: one in this process, and two as text for a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ledger import Entry, Projection, Writes

OWN = """
from pathlib import Path
from ledger import Projection

class Counting(Projection):
    name = "counting"
    tables = ("counting",)
    schema = "create table counting (ledger_id int, position bigint)"

    def apply(self, ledger_id, entries, tx):
        for entry in entries:
            if entry.action == "bad.action" and not Path("mended").exists():
                raise ValueError(f"what is {entry.after}?")
        tx.copy("counting", ["ledger_id", "position"], [(ledger_id, entry.position) for entry in entries])
"""
FAILING = """
from ledger import Projection

class Counting(Projection):
    name = "counting"
    tables = ("counting",)
    schema = "create table counting (ledger_id int, position bigint)"

    def apply(self, ledger_id, entries, tx):
        for entry in entries:
            if entry.action == "bad.action":
                raise ValueError("cannot count\\nthat")
        tx.copy("counting", ("ledger_id", "position"), [(ledger_id, entry.position) for entry in entries])
"""


class Count(Projection):
    """How many entries there are: the smallest projection. It fails on the action `poison`."""

    name = "count"
    version = 1
    tables: ClassVar[tuple[str, ...]] = ("count",)
    schema = "create table count (ledger_id int primary key, entries bigint not null)"

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        for entry in entries:
            tx.execute(
                "insert into count values (%s, 1) on conflict (ledger_id) do update set entries = count.entries + 1",
                (ledger_id,),
            )
            if entry.action == "poison":
                raise ValueError("poisoned")
