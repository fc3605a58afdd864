"""ASGI: a middleware that opens an audit context for each request, and records those that should have an entry.

    app = AuditMiddleware(app, ledger, actor=lambda scope: f"user:{scope['user'].id}", reads=["/patients/*"])

docs/capture.md, "Requests", describes it. It needs no framework, and is for any: Starlette, FastAPI, Litestar, Quart.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ledger.contrib.web import REQUEST_ID, Exchange, Policy, Request, Requests, note_unrecorded
from ledger.events import Event

if TYPE_CHECKING:
    from ledger.async_client import AsyncLedger
    from ledger.client import Ledger

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Record: TypeAlias = Callable[[Event], Awaitable[object]]
Actor: TypeAlias = Callable[[Scope], str | Awaitable[str | None] | None]


class AuditMiddleware:
    """Wraps an application. Lifespan and websockets pass through.

    ledger: an open AsyncLedger, or a Ledger, which is called in threads.
    actor: who makes a request, or None where nobody is known (yet): it is asked before the application is called, and
    again for the entry if nobody has been bound by then. A function or coroutine function.
    requests, reads, trusted_proxies: see `Policy`.
    strict: a request whose entry cannot be recorded fails with that error instead of being answered, although the
    application has done its work. Otherwise the error is logged and counted.
    Raises InvalidSetting.
    """

    def __init__(
        self,
        app: App,
        ledger: AsyncLedger | Ledger,
        actor: Actor | None = None,
        requests: Requests = "mutations",
        reads: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        strict: bool = False,
    ) -> None:
        self.app = app
        self.actor = actor
        self.strict = strict
        self.recordings: set[asyncio.Task[Exception | None]] = set()
        self._policy = Policy(requests, reads, trusted_proxies)
        record: Any = ledger.record
        is_async = inspect.iscoroutinefunction(record)
        self.record: Record = record if is_async else partial(asyncio.to_thread, record)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with Exchange(self._policy, _request(scope), scope.get(REQUEST_ID)) as exchange:
            scope[REQUEST_ID] = exchange.id
            await _Call(self, exchange, scope, send).run(receive)


class _Call:
    """One request on its way through the middleware."""

    def __init__(self, middleware: AuditMiddleware, exchange: Exchange, scope: Scope, send: Send) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self._status: int | None = None
        self._asked = False
        self._refused = False
        """The entry could not be recorded, and the application has been told so."""

    async def run(self, receive: Receive) -> None:
        try:
            await self._ask_actor()
            await self._middleware.app(self._scope, receive, self._forward)
        except BaseException as error:
            await self._record(error)
            raise
        if self._status is None:
            await self._record()

    async def _forward(self, message: Message) -> None:
        """Sends on what the application sends; an entry is recorded before the response begins."""
        if message["type"] == "http.response.start" and not self._refused:
            self._status = message["status"]
            problem = await self._record()
            if problem is not None and self._middleware.strict:
                self._refused = True
                raise problem
        await self._send(message)

    async def _record(self, error: BaseException | None = None) -> Exception | None:
        """Records the entry that the request has by now, if any. Returns why that was not possible.

        In a task of its own, so that it is recorded also if this one is cancelled, as when the client is gone.
        """
        if self._refused or not self._exchange.is_due(self._status, error):
            return None
        recording = asyncio.create_task(self._write(error), context=self._exchange.opened)
        self._middleware.recordings.add(recording)
        recording.add_done_callback(self._middleware.recordings.discard)
        return await asyncio.shield(recording)

    async def _write(self, error: BaseException | None) -> Exception | None:
        try:
            if self._asked and not self._exchange.has_actor():
                await self._ask_actor()
            await self._middleware.record(self._exchange.event(self._status, error))
        except Exception as problem:
            note_unrecorded(self._exchange, problem)
            return problem
        return None

    async def _ask_actor(self) -> None:
        if self._middleware.actor is not None:
            actor = self._middleware.actor(self._scope)
            self._exchange.bind(await actor if inspect.isawaitable(actor) else actor)
        self._asked = True


def _request(scope: Scope) -> Request:
    root, path, client = scope.get("root_path", ""), scope["path"], scope.get("client")
    if root and (path + "/").startswith(root.rstrip("/") + "/"):  # it is part of the path, or not, by the server's age
        path = path.removeprefix(root)

    def header(name: str) -> str | None:
        values = [value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()]
        return ",".join(values) or None

    return Request(scope["method"], root, path, (client[0] or None) if client else None, header)
