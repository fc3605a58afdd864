"""Puts events into the outbox, through the connection of a session and in its transaction."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, text

from ledger.capture.context import current
from ledger.capture.record import SQL, as_json
from ledger.events import Event

_TX = secrets.token_hex(16)
"""Stands for the transaction's id, which only the database knows, in what is sent. Nobody can guess it."""
# The casts, because drivers send strings as varchar.
_RECORD = text(
    SQL["record_all"].format(
        ledger=":ledger",
        events="cast(replace(cast(:events as text), cast(:tx as text), cast(pg_current_xact_id() as text)) as json)",
    )
)


def record(connection: Connection, ledger: str, events: Iterable[Event]) -> None:
    """In one statement, with what the running context gives. Raises InvalidEvent; DBAPIError of the driver."""
    context = current()
    metadata = {"tx": _TX}
    if context is None or "via" not in context.metadata:
        metadata["via"] = "sqlalchemy"
    events = [msgspec.structs.replace(event, metadata=metadata) for event in events]
    if events:
        connection.execute(_RECORD, {"ledger": ledger, "events": as_json(ledger, events), "tx": _TX}).close()
