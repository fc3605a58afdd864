"""auditledger: a tamper-evident audit ledger for applications on Postgres."""

from ledger.client import AsyncLedger, Ledger
from ledger.errors import LedgerError
from ledger.events import Appended, Entry, Event, Receipt, Tail, Unchanged

__all__ = ["Appended", "AsyncLedger", "Entry", "Event", "Ledger", "LedgerError", "Receipt", "Tail", "Unchanged"]
