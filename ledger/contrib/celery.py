"""Celery: tasks run in the audit context of the code that sent them. Extra `celery`.

    app = Celery("billing")
    ledger.contrib.celery.install(app)

A message's header `ledger_context` holds the context as it is when the task is sent: by an application, or by another
task, as a retry and the next task of a chain, chord or group are. docs/capture.md, "Celery", describes it.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish, task_postrun, task_prerun

from ledger.capture.context import Context, audit_context, current
from ledger.errors import UsageError

HEADER = "ledger_context"
_OPENED = "ledger_opened"
"""The attribute of a task's request that holds its open context until it ends."""

log = logging.getLogger("ledger.contrib")


def install(app: Celery) -> None:
    """Sends the context with each task, and opens it around each task. Call it where the app is made, once or more.

    Celery's signals belong to the process: what is installed for one app is there for all apps of the process.
    """
    before_task_publish.connect(_publish, weak=False, dispatch_uid="ledger.publish")
    task_prerun.connect(_begin, weak=False, dispatch_uid="ledger.begin")
    task_postrun.connect(_end, weak=False, dispatch_uid="ledger.end")


def _publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
    context = current()
    if headers is not None:
        headers.pop(HEADER, None)  # that of the attempt before, which a retry passes on
        if context is not None:
            headers[HEADER] = context.setting()


def _begin(task: Task, task_id: str, **_: Any) -> None:
    """Opens the context that came with the task. `via` and `task.id` name the task; a retry has both anew."""
    about = {"via": f"celery:{task.name}", "task": {"id": task_id}}
    opened = audit_context.of(_sent(task, task_id).extended(Context(metadata=about)))
    opened.__enter__()
    setattr(task.request, _OPENED, opened)


def _end(task: Task, **_: Any) -> None:
    opened: audit_context | None = getattr(task.request, _OPENED, None)
    if opened is not None:
        opened.__exit__(None, None, None)


def _sent(task: Task, task_id: str) -> Context:
    text = getattr(task.request, HEADER, None)
    try:
        return Context.from_setting(text if isinstance(text, str) else "")
    except UsageError:
        log.error("task %s: its header %s is no audit context, and is left out", task_id, HEADER)
        return Context()
