"""The context of what is being done: who does it, why, from where. docs/vocabulary.md has the names of its metadata.

    with audit_context(actor="user:42", source={"ip": "192.0.2.1"}):
        ledger.append(Event(None, "invoice.sent", "invoice", "7"))  # by user:42, from 192.0.2.1

A ContextVar holds a mutable holder. Tasks and threads that copy the ContextVar (asyncio, `asyncio.to_thread`,
Starlette's thread pool) share the holder, so that what they `bind` reaches the code that opened the context. Tasks that
run at the same time for different actors each need an `audit_context` of their own.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextvars import ContextVar
from functools import partial, wraps
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

import msgspec

from ledger.capture.snapshot import Context, is_missing
from ledger.errors import UsageError
from ledger.events import Event
from ledger.format.canonical import member
from ledger.format.json_text import json_text

__all__ = ["Context", "all_in_context", "audit_context", "bind", "current", "in_context"]

Function = TypeVar("Function", bound=Callable[..., Any])


class audit_context:
    """Opens a context, by `with`, `async with`, or as a decorator of a function or coroutine function.

    actor, actor_type: as in Event; None or "" is not given. metadata: anything an Event's metadata may hold.
    It inherits from the context that it is opened in, and what is given here wins (Context.extended).
    Raises InvalidEvent for what an event may not hold.
    """

    def __init__(self, /, actor: str | None = None, *, actor_type: str | None = None, **metadata: Any) -> None:
        self._given = _given(actor, actor_type, metadata)

    @classmethod
    def of(cls, context: Context) -> Self:
        """Opens a context that is there already, such as one read by `Context.from_setting`."""
        made = cls()
        made._given = context
        return made

    def __enter__(self) -> None:
        outer = _RUNNING.get()
        context = self._given if outer is None else outer.context.extended(self._given)
        _RUNNING.set(_Holder(context, outer, self))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the innermost context that this object opened here, also if another opened after it is still open.

        Generators that are consumed in turn close theirs in any order. In a copy of the ContextVar that does not have
        the context, as when a framework closes it in another thread, there is nothing to close.
        """
        inner, holder = None, _RUNNING.get()
        while holder is not None and holder.opened_by is not self:
            inner, holder = holder, holder.outer
        if holder is None:
            return
        if inner is None:
            _RUNNING.set(holder.outer)
        else:
            inner.outer = holder.outer

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Function) -> Function:
        """Raises UsageError for a generator function: its consumer would run in the context, too."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"{function.__qualname__} is a generator function, whose consumer would run in the context, too: "
                "open audit_context() around what consumes it"
            )
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast(Function, awaited)

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(Function, called)


def bind(actor: str | None = None, *, actor_type: str | None = None, **metadata: Any) -> None:
    """Adds to the running context, for everything that runs in it; what is given wins, as in `audit_context`.

    Raises UsageError outside any context, InvalidEvent for what an event may not hold.
    """
    holder = _RUNNING.get()
    if holder is None:
        raise UsageError(
            "bind() outside any audit context: open one around the request or job with `with audit_context(): …`"
        )
    given = _given(actor, actor_type, metadata)
    with _BINDING:
        holder.context = holder.context.extended(given)


def current() -> Context | None:
    """The running context as it is now, or None outside any."""
    holder = _RUNNING.get()
    return None if holder is None else holder.context


def in_context(event: Event) -> Event:
    """The event with what the running context gives (Context.applied). The draft refuses one without an actor."""
    context = current()
    return event if context is None else _applied(context, event)


@overload
def all_in_context(events: Iterable[Event]) -> Iterable[Event]: ...
@overload
def all_in_context(events: Iterable[Event] | AsyncIterable[Event]) -> Iterable[Event] | AsyncIterable[Event]: ...
def all_in_context(events: Iterable[Event] | AsyncIterable[Event]) -> Iterable[Event] | AsyncIterable[Event]:
    """The events with what the context that runs now gives. The draft refuses those without an actor, by number."""
    context = current()
    if context is None:
        return events
    apply = partial(_applied, context)
    return _each(apply, events) if isinstance(events, AsyncIterable) else map(apply, events)


async def _each(apply: Callable[[Event], Event], events: AsyncIterable[Event]) -> AsyncIterator[Event]:
    async for event in events:
        yield apply(event)


def _applied(context: Context, event: Event) -> Event:
    return context.applied(event) if isinstance(event, Event) else event


class _Holder:
    """An open context. outer: the one that runs once this one is closed. opened_by: whose `__exit__` closes it."""

    __slots__ = ("context", "opened_by", "outer")

    def __init__(self, context: Context, outer: _Holder | None, opened_by: audit_context) -> None:
        self.context = context
        self.outer = outer
        self.opened_by = opened_by


_RUNNING: ContextVar[_Holder | None] = ContextVar("ledger.audit_context", default=None)
_BINDING = threading.RLock()
"""Held while a holder's context is replaced, so that threads that bind at once lose nothing."""
# A fork waits for it, so that no child inherits it locked.
os.register_at_fork(before=_BINDING.acquire, after_in_parent=_BINDING.release, after_in_child=_BINDING.release)


def _given(actor: str | None, actor_type: str | None, metadata: dict[str, Any]) -> Context:
    """What was given, checked and copied: the caller may change its values afterwards."""
    plain = msgspec.json.decode(json_text(metadata, "metadata") or b"{}")
    return Context(_text(actor, "actor"), _text(actor_type, "actor_type"), plain)


def _text(value: str | None, name: str) -> str | None:
    """A checked string of Python's own, whatever a subclass says that it is; None for a missing one."""
    if is_missing(value):
        return None
    member(value, name)
    return str.__str__(value)
