"""WSGI (PEP 3333): a middleware that opens an audit context for each request, and records those that have an entry.

    app.wsgi_app = AuditMiddleware(app.wsgi_app, ledger, actor=lambda environ: environ.get("REMOTE_USER"))

docs/capture.md, "Requests", describes it. It needs no framework, and is for any: Flask, Bottle, Pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from ledger.contrib.web import REQUEST_ID, Exchange, Policy, Request, Requests, note_unrecorded

if TYPE_CHECKING:
    from ledger.client import Ledger

Environ: TypeAlias = dict[str, Any]
App: TypeAlias = Callable[[Environ, Any], Iterable[bytes]]
Actor: TypeAlias = Callable[[Environ], str | None]


class AuditMiddleware:
    """Wraps an application. The options are those of `ledger.contrib.asgi.AuditMiddleware`; ledger: an open Ledger.

    Raises InvalidSetting.
    """

    def __init__(
        self,
        app: App,
        ledger: Ledger,
        actor: Actor | None = None,
        requests: Requests = "mutations",
        reads: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        strict: bool = False,
    ) -> None:
        self.app = app
        self.ledger = ledger
        self.actor = actor
        self.strict = strict
        self._policy = Policy(requests, reads, trusted_proxies)

    def __call__(self, environ: Environ, start_response: Any) -> Iterator[bytes]:
        with Exchange(self._policy, _request(environ), environ.get(REQUEST_ID)) as exchange:
            environ[REQUEST_ID] = exchange.id
        response = _Response(self, exchange, environ)
        response.begin(start_response)
        return response


class _Response:
    """A response as its server iterates over it. All of the application runs in the request's context.

    An entry is recorded before the first bytes are handed on, which is when a server sends the status.
    """

    def __init__(self, middleware: AuditMiddleware, exchange: Exchange, environ: Environ) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._environ = environ
        self._status: int | None = None
        self._asked = False
        self._begun = False
        self._refused = False
        self._body: Iterable[bytes] = ()
        self._chunks: Iterator[bytes] = iter(())

    def begin(self, start_response: Any) -> None:
        """Calls the application."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            self._status = int(status[:3])
            write = start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

            def begin_and_write(data: bytes) -> object:
                self._begin_body()
                return write(data)

            return begin_and_write

        try:
            self._ask_actor()
        except Exception as error:
            self._record(error)
            raise
        self._body = self._run(self._middleware.app, self._environ, start)
        self._chunks = iter(self._body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = self._run(next, self._chunks)
        except StopIteration:
            self._begin_body()
            raise
        if chunk:
            self._begin_body()
        return chunk

    def close(self) -> None:
        """Called by the server at the end of each request, also if the client is gone."""
        close = getattr(self._body, "close", None)
        if close is not None:
            self._run(close)
        self._begin_body()

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a part of the application. What it raises is recorded, and raised."""
        try:
            return self._exchange.run(function, *arguments)
        except StopIteration:
            raise
        except BaseException as error:
            self._record(error)
            raise

    def _begin_body(self) -> None:
        if not self._begun:
            self._begun = True
            problem = self._record()
            if problem is not None and self._middleware.strict:
                self._refused = True
                raise problem

    def _record(self, error: BaseException | None = None) -> Exception | None:
        """Records the entry that the request has by now, if any. Returns why that was not possible."""
        if self._refused:
            return None
        try:
            if self._exchange.is_due(self._status, error):
                if self._asked and not self._exchange.has_actor():
                    self._ask_actor()
                self._exchange.run(self._middleware.ledger.record, self._exchange.event(self._status, error))
        except Exception as problem:
            note_unrecorded(self._exchange, problem)
            return problem
        return None

    def _ask_actor(self) -> None:
        if self._middleware.actor is not None:
            self._exchange.bind(self._middleware.actor(self._environ))
        self._asked = True


def _request(environ: Environ) -> Request:
    def header(name: str) -> str | None:
        value: str | None = environ.get("HTTP_" + name.upper().replace("-", "_"))
        return value

    return Request(
        environ["REQUEST_METHOD"],
        _decoded(environ.get("SCRIPT_NAME", "")),
        _decoded(environ.get("PATH_INFO", "")),
        environ.get("REMOTE_ADDR") or None,
        header,
    )


def _decoded(text: str) -> str:
    """A path, whose bytes a server hands over as Latin-1."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")
