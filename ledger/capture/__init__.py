"""What happens in an application, on its way to the ledger: who did it and why, and what must not be recorded."""

from ledger.capture.context import Context as Context
from ledger.capture.context import audit_context as audit_context
from ledger.capture.context import bind as bind
from ledger.capture.context import current as current
