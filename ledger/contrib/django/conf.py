"""The setting AUDIT_LEDGER, and who makes a request.

AUDIT_LEDGER = {"LEDGER": "main", "READS": ["/patients/*"]}
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.module_loading import import_string

from ledger.contrib.web import Policy
from ledger.errors import InvalidSetting
from ledger.settings import check_ledger_name

SETTING = "AUDIT_LEDGER"
Actor: TypeAlias = Callable[[HttpRequest], str | None]
AsyncActor: TypeAlias = Callable[[HttpRequest], Awaitable[str | None]]


class Options(NamedTuple):
    """ledger: its name. databases: aliases of those that get the context; requests are recorded in the first one."""

    ledger: str
    databases: tuple[str, ...]
    actor: Actor
    async_actor: AsyncActor
    policy: Policy
    strict: bool


@cache
def options() -> Options:
    """The setting as it is, checked. Raises ImproperlyConfigured."""
    given = dict(getattr(settings, SETTING, {}))
    databases = tuple(given.pop("DATABASES", ("default",)))
    actor = given.pop("ACTOR", None)
    function = import_string(actor) if isinstance(actor, str) else actor
    if function is not None and (not callable(function) or iscoroutinefunction(function)):
        raise ImproperlyConfigured(f"{SETTING}: ACTOR must be a function of a request, not a coroutine function")
    try:
        policy = Policy(given.pop("REQUESTS", "mutations"), given.pop("READS", ()), given.pop("TRUSTED_PROXIES", ()))
        made = Options(
            check_ledger_name(given.pop("LEDGER", "main")),
            databases,
            function or actor_of,
            sync_to_async(function, thread_sensitive=True) if function else async_actor_of,
            policy,
            bool(given.pop("STRICT", False)),
        )
    except InvalidSetting as error:
        raise ImproperlyConfigured(f"{SETTING}: {error}") from None
    if given or not databases:
        raise ImproperlyConfigured(f"{SETTING}: unknown or empty: {', '.join(sorted(given)) or 'DATABASES'}")
    return made


def actor_of(request: HttpRequest) -> str | None:
    """`user:` and the primary key of the user who is logged in; None for nobody."""
    return _named(getattr(request, "user", None))


async def async_actor_of(request: HttpRequest) -> str | None:
    """`actor_of`, awaited."""
    if hasattr(request, "auser"):  # Django 5.0
        return _named(await request.auser())
    named: str | None = await sync_to_async(actor_of, thread_sensitive=True)(request)
    return named


def _named(user: Any) -> str | None:
    return f"user:{user.pk}" if user is not None and user.is_authenticated else None
