"""Stored rows checked by the native core and by Python, one by one and in whole runs."""

from __future__ import annotations

from typing import Any

from ledger.format import native
from ledger.format.findings import Link
from ledger.format.quarantine_record import Mark
from ledger.format.rules import Columns
from ledger.tlog.merkle import leaf_hash
from ledger.verify.entries import _Check
from tests.support.copy_messages import message, messages


class Leaves:
    """Of each position its hash, and whether it was quarantined; those of sound ones may come joined."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes | None, bool]] = []

    def add(self, position: int, envelope: bytes | None, quarantined: bool = False) -> None:
        self.said.append((position, None if envelope is None else leaf_hash(envelope), quarantined))

    def add_hashes(self, position: int, hashes: bytes) -> None:
        for index in range(0, len(hashes), 32):
            self.said.append((position + index // 32, hashes[index : index + 32], False))

    @property
    def hashes(self) -> bytes:
        return b"".join(leaf or b"" for _, leaf, _ in self.said)


def compare_one(values: Any, before: Link, known: set[int] | None = None) -> bool:
    """Whether the core takes this row for sound, which must be what Python says of it."""
    data = message(values)
    core = native.core.Check("main", known or set(), True)
    core.go_on(*before)
    taken = core.take([data], 0)
    assert taken in ((0, 0), (1, 1))
    try:
        row = native.core.columns(data)
    except UnicodeDecodeError:
        assert taken == (0, 0)
        return False
    leaves = Leaves()
    python = _Check("main", before, leaves, {})
    sound = python._is_sound(row) and row[0] not in (known or set())
    assert (taken == (1, 1)) == sound
    if sound:
        assert Link(*core.last()) == python.walk.last
        assert core.leaves() == leaves.hashes
    else:
        assert Link(*core.last()) == before and core.leaves() == b""
    return sound


def before(row: Columns) -> Link:
    return Link(row.position - 1, row.prev_hash, row.prev_hash, row.recorded)


def ran(rows: list[Any], last: Link, known: dict[int, list[Mark]], step: int, *, core: bool, leaves: bool) -> Any:
    """What a whole check of these rows comes to, which come in lists of `step` messages."""
    taker = Leaves() if leaves else None
    check = _Check("main", last, taker, known)
    whole = messages(rows)
    for start in range(0, len(whole), step):
        some = whole[start : start + step]
        if core:
            check.take_messages(some)
        else:
            for row in filter(None, map(native.core.columns, some)):
                check.take(row)
    check.examine_group()
    check.pass_holes(len(rows) + 2)
    said = check.findings.kept, check.findings.more, check.entries, check.walk.last, check.own, check.erased
    return said, taker and taker.said


def compare_runs(rows: list[Any], last: Link, known: dict[int, list[Mark]], step: int) -> Any:
    for leaves in (True, False):
        with_core = ran(rows, last, known, step, core=True, leaves=leaves)
        assert with_core == ran(rows, last, known, step, core=False, leaves=leaves)
    return with_core
