"""Events on their way into a ledger: their context, what is redacted, the outbox, its sealer, and what feeds it."""

from ledger.capture.context import Context as Context
from ledger.capture.context import audit_context as audit_context
from ledger.capture.context import bind as bind
from ledger.capture.context import current as current
