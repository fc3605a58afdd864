"""Who makes the request that runs: asked once it may be known, and bound to the request's context."""

from __future__ import annotations

from contextvars import ContextVar

from django.http import HttpRequest

from ledger.capture.context import bind, current
from ledger.contrib.django import conf

REQUEST: ContextVar[HttpRequest | None] = ContextVar("ledger.django_request", default=None)
"""The request whose actor may be asked for; None while it is, because that may query the database."""


def ask_actor(*, again: bool = False) -> None:
    """Binds the running request's actor, if there is a request and nobody is bound yet. again: in any case."""
    request, context = REQUEST.get(), current()
    if request is None or context is None or (context.actor is not None and not again):
        return
    token = REQUEST.set(None)
    try:
        actor = conf.options().actor(request)
    finally:
        REQUEST.reset(token)
    if actor:
        bind(actor=actor)
