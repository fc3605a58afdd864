"""Signed checkpoints of a ledger in a database, for the tests of whatever reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg

from ledger.checkpoints import grow
from ledger.drivers.run import drive
from ledger.format.canonical import digest, envelope
from ledger.settings import Settings
from ledger.store import tree
from ledger.store.ledgers import FAR, LedgerRef, read
from ledger.store.tree import Head
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.note import Signature, Verifier, cosign, sign
from ledger.verify import database
from ledger.verify.checkpoints import Trust
from ledger.verify.report import Report
from tests.support.findings import places
from tests.support.logs import TIME

MAIN = LedgerRef(1, "main")
SIGNER = FileSigner("log.example/audit/main", b"log key".ljust(32))
WITNESS = FileSigner("witness.example", b"witness key".ljust(32))
COSIGNER = Verifier.parse(WITNESS.vkey).cosigner
KEY = Verifier.parse(SIGNER.vkey)
TRUST = Trust((KEY,))

TRIGGERS = {
    "audit_logs": ("move_tail", "granted_ledger", "append_only", "only_bodies", "own_actions"),
    "tails": ("append_only", "moved_by_entries"),
    "tiles": ("append_only", "grow_only"),
    "checkpoints": ("append_only", "add_only"),
}


def checkpoint(connection: psycopg.Connection, signer: FileSigner | None = SIGNER, *, witnessed: bool = False) -> bytes:
    """Extends the tree to the tail, signs that and keeps it. No state: it signs whatever history it is shown."""
    head = drive(grow.extend(MAIN, []), connection)
    note = signed(head, signer or SIGNER, witnessed=witnessed)
    if signer is not None:
        drive(tree.keep(MAIN, head, note), connection)
    return note


def signed(head: Head, signer: FileSigner = SIGNER, *, witnessed: bool = False) -> bytes:
    text = Checkpoint(signer.name, head.size, head.root).text
    cosignatures: list[Signature] = [cosign(text, WITNESS, TIME)] if witnessed else []
    return sign(text, [signer], cosignatures)


class Superuser:
    """One who takes every protection away, does what he likes, and puts them back."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def run(self, *statements: str) -> None:
        with self._unprotected():
            for statement in statements:
                self.connection.execute(statement)

    def rewrite(self, position: int, **changes: Any) -> None:
        """Changes the entry there, hashes it and everything after it anew, and sets the tail to that."""
        entries = drive(read(MAIN, position - 1, FAR), self.connection)
        prev = entries[0].prev_hash
        rows = []
        for entry in entries:
            forged = msgspec.structs.replace(entry, prev_hash=prev, **(changes if entry is entries[0] else {}))
            prev = digest(envelope(forged))
            rows.append((1, *msgspec.structs.astuple(msgspec.structs.replace(forged, hash=prev))[1:]))
        with self._unprotected(), self.connection.cursor() as cursor:
            cursor.execute("delete from ledger.audit_logs where position >= %s", (position,))
            cursor.executemany(
                "insert into ledger.audit_logs (ledger_id, position, id, recorded_at, occurred_at, actor, actor_type,"
                " action, resource_type, resource_id, before, after, metadata, salt, body_hash, prev_hash, hash)"
                f" values ({', '.join(['%s'] * 17)})",
                rows,
            )
            cursor.execute("update ledger.tails set hash = %s", (prev,))

    def cut(self, last: int) -> None:
        """Removes every entry after that one, and sets the tail to it."""
        self.run(
            f"delete from ledger.audit_logs where position > {last}",
            "update ledger.tails as tail set position = entry.position, hash = entry.hash,"
            " recorded_at = entry.recorded_at from ledger.audit_logs as entry"
            f" where entry.ledger_id = tail.ledger_id and entry.position = {last}",
        )

    def forget(self, *, checkpoints: bool = True) -> None:
        """Removes the tiles, and the checkpoints, which he can also make anew."""
        self.run("delete from ledger.tiles", *(["delete from ledger.checkpoints"] if checkpoints else []))

    @contextmanager
    def _unprotected(self) -> Iterator[None]:
        for state in ("disable", "enable always"):
            for table, triggers in TRIGGERS.items():
                for trigger in triggers:
                    self.connection.execute(f"alter table ledger.{table} {state} trigger {trigger}")
            if state == "disable":
                yield


Said = list[tuple[int | None, str]]


def said(report: Report) -> Said:
    return places(report.findings)


def check(url: str, *notes: bytes, trust: Trust = TRUST, **options: Any) -> Report:
    """verify, with these checkpoints."""
    given = [(f"given {number}", note) for number, note in enumerate(notes)]
    return database.verify(Settings(database_url=url), checkpoints=given, trust=trust, **options)
