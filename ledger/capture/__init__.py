"""Events that come into a ledger by themselves: their context, the outbox, its sealer, and what feeds it."""

from ledger.capture.context import Context as Context
from ledger.capture.context import audit_context as audit_context
from ledger.capture.context import bind as bind
from ledger.capture.context import current as current
