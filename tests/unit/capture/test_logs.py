"""The context as fields of logging and structlog."""

from __future__ import annotations

import io
import logging
from typing import Any

from ledger.capture import audit_context
from ledger.contrib.logging import AuditContextFilter
from ledger.contrib.structlog import add_audit_context


def test_a_filter_adds_the_contexts_fields_to_a_record() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(AuditContextFilter())
    handler.setFormatter(logging.Formatter("%(actor)s %(request.id)s %(message)s", defaults={"request.id": "-"}))
    logger = logging.Logger("x")
    logger.addHandler(handler)
    logger.warning("outside")
    with audit_context("user:1", request={"id": "r1"}, msg="not this", args=["nor this"]):
        logger.warning("inside %s", 7)
        logger.warning("own", extra={"actor": "user:2"})
    assert written.getvalue().splitlines() == ["None - outside", "user:1 r1 inside 7", "user:2 r1 own"]


def test_a_processor_adds_the_contexts_fields_to_a_line() -> None:
    line: dict[str, Any] = {"event": "own", "actor": "user:2"}
    assert add_audit_context(None, "info", dict(line)) == line
    with audit_context("user:1", event="not this", request={"id": "r1"}, tags=["a"]):
        assert add_audit_context(None, "info", dict(line)) == {**line, "request.id": "r1", "tags": ["a"]}
        assert add_audit_context(None, "info", {"event": "x"})["actor"] == "user:1"
