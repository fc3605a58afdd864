"""logging: a filter that adds the audit context's fields to each record.

    handler = logging.StreamHandler()
    handler.addFilter(AuditContextFilter())
    handler.setFormatter(logging.Formatter("%(actor)s %(request.id)s %(message)s", defaults={"request.id": "-"}))

The fields are those of `Context.fields`: actor, actor_type, and metadata with names such as `request.id`. Add it to a
handler: a logger's filters do not see what its child loggers log.
"""

from __future__ import annotations

import logging

from ledger.capture.context import current


class AuditContextFilter(logging.Filter):
    """Lets every record pass. What the record has itself wins; `actor` and `actor_type` are None where nothing is."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = current()
        fields = {} if context is None else context.fields()
        for name, value in {"actor": None, "actor_type": None, **fields}.items():
            vars(record).setdefault(name, value)
        return True
