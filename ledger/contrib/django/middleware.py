"""The middleware, for WSGI and ASGI: the context of each request, and entries for those that should have one.

    MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
                  "ledger.contrib.django.middleware.AuditMiddleware", ...]

Entries are recorded on Django's connection after ATOMIC_REQUESTS has ended the view's transaction, whatever became of
that, and before the response is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ledger.capture.context import Context, audit_context
from ledger.contrib.django import conf
from ledger.contrib.django.asking import REQUEST, ask_actor
from ledger.contrib.django.recording import record
from ledger.contrib.web import REQUEST_ID, Exchange, Request, note_unrecorded

_ERROR = "_ledger_error"
"""Attribute of a request: what its view raised."""


class AuditMiddleware:
    """Opens the context. The options are those of the setting AUDIT_LEDGER (conf.py)."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return self._acall(request) if self._is_async else self._call(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        setattr(request, _ERROR, exception)

    def _call(self, request: HttpRequest) -> HttpResponseBase:
        with _opened(request) as exchange:
            try:
                if exchange.is_due(200):
                    ask_actor()
                response: HttpResponseBase = self.get_response(request)
            except BaseException as error:
                _record(exchange, None, error)
                raise
            _finish(exchange, request, response)
            return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        with _opened(request) as exchange:
            try:
                if exchange.is_due(200):
                    exchange.bind(await conf.options().async_actor(request))
                response: HttpResponseBase = await self.get_response(request)
            except BaseException as error:
                # In a task of its own, because this one may be cancelled: the client is gone.
                await asyncio.shield(asyncio.ensure_future(sync_to_async(_record)(exchange, None, error)))
                raise
            await sync_to_async(_finish, thread_sensitive=True)(exchange, request, response)
            return response


def logged_in(request: HttpRequest, **_: Any) -> None:
    """A receiver of user_logged_in: the context's actor is who has just logged in."""
    if REQUEST.get() is request:
        ask_actor(again=True)


@contextmanager
def _opened(request: HttpRequest) -> Iterator[Exchange]:
    token = REQUEST.set(request)
    try:
        with Exchange(conf.options().policy, _request(request), request.META.get(REQUEST_ID)) as exchange:
            request.META[REQUEST_ID] = exchange.id
            yield exchange
    finally:
        REQUEST.reset(token)


def _finish(exchange: Exchange, request: HttpRequest, response: HttpResponseBase) -> None:
    """Records the entry of a request that has been answered. Raises why that was not possible, if it must not be."""
    status = response.status_code
    problem = _record(exchange, status, getattr(request, _ERROR, None) if status >= 500 else None)
    if problem is not None and conf.options().strict:
        raise problem
    if response.streaming:
        wrap = _astream if response.is_async else _stream
        response.streaming_content = wrap(request, exchange.context(), response.streaming_content)


def _record(exchange: Exchange, status: int | None, error: BaseException | None) -> Exception | None:
    """Records the entry that is due, if any. Returns why that was not possible."""
    try:
        if exchange.is_due(status, error):
            ask_actor()
            record(exchange.event(status, error), using=conf.options().databases[0])
    except Exception as problem:
        note_unrecorded(exchange, problem)
        return problem
    return None


@contextmanager
def _reopened(request: HttpRequest, context: Context) -> Iterator[None]:
    """The context of a request once more, while the content of its response is made."""
    REQUEST.set(request)
    try:
        with audit_context.of(context):
            yield
    finally:
        REQUEST.set(None)


def _stream(request: HttpRequest, context: Context, content: Iterator[bytes]) -> Iterator[bytes]:
    with _reopened(request, context):
        yield from content


async def _astream(request: HttpRequest, context: Context, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with _reopened(request, context):
        async for chunk in content:
            yield chunk


def _request(request: HttpRequest) -> Request:
    root = request.META.get("SCRIPT_NAME", "")
    peer = request.META.get("REMOTE_ADDR") or None
    return Request(request.method or "", root, request.path_info, peer, request.headers.get)
