"""structlog: a processor that adds the audit context's fields to each log line.

    structlog.configure(processors=[add_audit_context, structlog.processors.JSONRenderer()])

The fields are those of `Context.fields`: actor, actor_type, and metadata with names such as `request.id`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from ledger.capture.context import current


def add_audit_context(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor. What the log line has itself wins. Outside any context it adds nothing."""
    context = current()
    if context is not None:
        for name, value in context.fields().items():
            event_dict.setdefault(name, value)
    return event_dict
