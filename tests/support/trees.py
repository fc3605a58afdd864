"""A naive Merkle tree, and what is done to the one in a database."""

from __future__ import annotations

from hashlib import sha256

import psycopg

from ledger import Ledger
from ledger.format.canonical import envelope
from ledger.store.ledgers import LedgerRef
from ledger.store.tree import Head
from tests.support.forger import Forger

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


def check_tree(ledger: Ledger, connection: psycopg.Connection, head: Head) -> None:
    leaves = envelopes(ledger)
    assert head == (len(leaves), naive_root(leaves), ledger.tail().hash)
    assert stored_tiles(connection) == naive_tiles(leaves)


def cut(forger: Forger, last: int) -> None:
    forger.run(
        f"delete from ledger.audit_logs where position > {last}",
        f"update ledger.tails as tail set position = {last}, hash = entry.hash, recorded_at = entry.recorded_at"
        f" from ledger.audit_logs as entry where tail.ledger_id = 1 and entry.position = {last}",
    )


def rewrite(forger: Forger, first: int, last: int) -> None:
    newest = forger.rehash(first, last, actor="user:43")
    forger.connection.execute("update ledger.tails set hash = %s where ledger_id = 1", (newest.hash,))
