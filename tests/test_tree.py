"""The tree in the database: its tiles against a naive tree, what extending reads, what it refuses."""

from __future__ import annotations

from hashlib import sha256

import psycopg
import pytest

from ledger import Ledger, tree
from ledger.canonical import envelope
from ledger.drive import drive
from ledger.store import LedgerRef
from ledger.tree import NOTHING, Head
from tests.support import events

MAIN = LedgerRef(1, "main")


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word by word."""
    if len(leaves) < 2:
        return sha256(b"\x00" + leaves[0]).digest() if leaves else sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_tiles(leaves: list[bytes]) -> dict[tuple[int, int], bytes]:
    """tlog-tiles: each level holds the roots of 256 times as many leaves as the one below."""
    found, level, width = {}, 0, 1
    while len(leaves) >= width:
        hashes = [naive_root(leaves[at : at + width]) for at in range(0, len(leaves) - width + 1, width)]
        for index in range(0, len(hashes), 256):
            found[level, index // 256] = b"".join(hashes[index : index + 256])
        level, width = level + 1, width * 256
    return found


def stored_tiles(connection: psycopg.Connection) -> dict[tuple[int, int], bytes]:
    rows = connection.execute("select level, index, hashes from ledger.tiles where ledger_id = 1").fetchall()
    return {(level, index): hashes for level, index, hashes in rows}


def envelopes(ledger: Ledger) -> list[bytes]:
    return [envelope(entry) for entry in ledger.read()]


def extend(connection: psycopg.Connection, *trusted: Head) -> Head:
    return drive(tree.extend(MAIN, trusted), lambda: connection)


def check_tree(ledger: Ledger, connection: psycopg.Connection, head: Head) -> None:
    leaves = envelopes(ledger)
    assert head == (len(leaves), naive_root(leaves), ledger.tail().hash)
    assert stored_tiles(connection) == naive_tiles(leaves)


@pytest.mark.parametrize("steps", [[0], [1], [255], [256], [257], [100, 156, 1, 0, 600], [8192 + 300]])
def test_tiles_are_those_of_a_naive_tree(ledger: Ledger, admin: psycopg.Connection, steps: list[int]) -> None:
    head = NOTHING
    for step in steps:
        ledger.append_many(events(step))
        head = extend(admin, head)
        check_tree(ledger, admin, head)
    assert drive(tree.size(MAIN), lambda: admin) == sum(steps)
