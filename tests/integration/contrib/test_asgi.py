"""The ASGI middleware, with Starlette: the context of each request, and the entries of those that should have one."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from ledger import AsyncLedger, Entry, Event, Ledger, Settings
from ledger.capture import audit_context, bind, current
from ledger.contrib.asgi import AuditMiddleware, Message, Scope
from ledger.errors import InvalidSetting
from ledger.telemetry import COUNTERS, UNRECORDED
from tests.integration.contrib.asgi_client import call
from tests.integration.contrib.conftest import Sealed

Endpoint = Callable[[Request], Awaitable[Response]]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def by_header(scope: Scope) -> str | None:
    """Who the header X-User names."""
    return next((f"user:{value.decode()}" for key, value in scope["headers"] if key == b"x-user"), None)


def app_of(endpoint: Endpoint, path: str = "/{rest:path}") -> Starlette:
    return Starlette(routes=[Route(path, endpoint, methods=METHODS)])


def answer(status: int = 200) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("answer", status)

    return endpoint


def metadata(entry: Entry) -> dict[str, Any]:
    found = entry.metadata
    assert isinstance(found, dict)
    return found


def test_200_requests_at_once(ledger: Ledger, sealed: Sealed) -> None:
    """Each of what they do in a handler, a thread, a pool's thread, a stream and a background task is their own."""

    opened = AsyncLedger(ledger.settings)

    def act(name: str, note: Callable[[Event], object]) -> None:
        note(Event(None, f"act.{name}"))

    async def endpoint(request: Request) -> Response:
        events: list[Event] = []
        act("handler", events.append)
        await asyncio.sleep(0)
        await asyncio.to_thread(act, "thread", ledger.record)
        await run_in_threadpool(act, "pool", ledger.record)

        async def stream() -> AsyncIterator[bytes]:
            await asyncio.sleep(0)
            await opened.record_many([*events, Event(None, "act.stream")])
            yield b"streamed"

        async def later() -> None:
            await asyncio.sleep(0)
            await opened.record(Event(None, "act.later"))

        return StreamingResponse(stream(), background=BackgroundTask(later))

    async def main() -> None:
        async with opened:
            app = AuditMiddleware(app_of(endpoint), opened, actor=by_header)
            calls = (call(app, "POST", f"/things/{number}", {"X-User": str(number)}) for number in range(200))
            responses = await asyncio.gather(*calls)
            assert {response.body for response in responses} == {b"streamed"}

    asyncio.run(main())
    entries = sealed()
    names = ("act.handler", "act.later", "act.pool", "act.stream", "act.thread", "request.post")
    assert Counter(entry.action for entry in entries) == dict.fromkeys(names, 200)
    actors: dict[str, set[str]] = {}
    for entry in entries:
        request = metadata(entry)["request"]
        assert request["path"] == f"/things/{entry.actor.removeprefix('user:')}"
        actors.setdefault(request["id"], set()).add(entry.actor)
    assert len(actors) == 200
    assert all(len(each) == 1 for each in actors.values())
    assert set().union(*actors.values()) == {f"user:{number}" for number in range(200)}


def test_what_is_known_of_a_request(ledger: Ledger, sealed: Sealed) -> None:
    headers = {
        "X-User": "42",
        "User-Agent": "Mozilla/5.0",
        "X-Request-ID": "req-1",
        "X-Forwarded-For": "198.51.100.9, 203.0.113.7, 10.0.0.2",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "Authorization": "Bearer s3cr3t",
        "Cookie": "session=s3cr3t",
    }
    app = AuditMiddleware(app_of(answer(201)), ledger, actor=by_header, trusted_proxies=["10.0.0.0/8"])
    asyncio.run(call(app, "POST", "/a b", headers, query="token=s3cr3t", body=b"s3cr3t", client=("10.0.0.1", 1)))
    [entry] = sealed()
    assert (entry.actor, entry.actor_type, entry.action) == ("user:42", "user", "request.post")
    assert (entry.resource_type, entry.resource_id) == ("path", "/a b")
    assert metadata(entry) == {
        "outcome": "success",
        "response": {"status": 201},
        "source": {"ip": "203.0.113.7", "user_agent": "Mozilla/5.0"},
        "request": {"id": "req-1", "method": "POST", "path": "/a b"},
        "trace": {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"},
    }


def test_client_address(ledger: Ledger, sealed: Sealed) -> None:
    proxy = ("10.0.0.1", 1)
    cases: list[tuple[tuple[str, int] | None, str, str | None]] = [
        (("192.0.2.1", 1), "203.0.113.7", "192.0.2.1"),  # no proxy of ours
        (proxy, "203.0.113.7", "203.0.113.7"),
        (proxy, "", "10.0.0.1"),
        (proxy, "garbage, [2001:DB8::1]:443", "2001:db8::1"),
        (proxy, "203.0.113.7, 10.9.9.9:8080", "203.0.113.7"),
        (proxy, "10.9.9.9", "10.9.9.9"),
        (None, "203.0.113.7", "203.0.113.7"),
        (None, "", None),
        (("::ffff:10.0.0.1", 1), "203.0.113.7", "203.0.113.7"),
    ]
    app = AuditMiddleware(app_of(answer()), ledger, trusted_proxies=["10.0.0.0/8"])
    for client, forwarded, _ in cases:
        headers = {"X-Forwarded-For": forwarded, "X-Request-ID": "a b\n"}
        asyncio.run(call(app, "POST", "/", headers, client=client))
    entries = sealed()
    assert [metadata(entry).get("source", {}).get("ip") for entry in entries] == [ip for _, _, ip in cases]
    assert {len(metadata(entry)["request"]["id"]) for entry in entries} == {32}  # the one that was given is none
    assert {(entry.actor, entry.actor_type) for entry in entries} == {("anonymous", "anonymous")}


@pytest.mark.parametrize("requests", ["mutations", "all", None])
def test_which_requests_have_an_entry(ledger: Ledger, sealed: Sealed, requests: Any) -> None:
    async def main() -> None:
        for status in (200, 401, 403, 404, 500):
            app = AuditMiddleware(app_of(answer(status)), ledger, requests=requests, reads=["/patients/*"])
            for method, path in (("GET", "/other"), ("DELETE", "/other"), ("GET", "/patients/7")):
                await call(app, method, path, root_path="/api")

    asyncio.run(main())
    outcomes = {200: "success", 401: "denied", 403: "denied", 404: "failure", 500: "failure"}
    expected = []
    for status, outcome in outcomes.items():
        if requests == "all" or (requests == "mutations" and status not in (200, 404)):
            expected.append(("request.get", "/api/other", outcome))
        if requests is not None:
            expected.append(("request.delete", "/api/other", outcome))
        expected.append(("request.get", "/api/patients/7", outcome))
    assert [(entry.action, entry.resource_id, metadata(entry)["outcome"]) for entry in sealed()] == expected


def test_what_a_client_chose_is_made_fit(ledger: Ledger, sealed: Sealed) -> None:
    app = AuditMiddleware(app_of(answer()), ledger)
    path = "/\x00\ud800" + "x" * 5000
    asyncio.run(call(app, "POST", "/" + "x" * 5000, {"User-Agent": "\x00" * 5000}))

    async def begin(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        return

    scope: Scope = {"type": "http", "method": "BREW\x00" * 100, "path": path, "headers": [], "client": None}
    asyncio.run(AuditMiddleware(begin, ledger)(scope, receive, send))
    first, second = sealed()
    assert metadata(first)["source"]["user_agent"] == "\ufffd" * 512
    assert (second.action, len(metadata(second)["request"]["path"])) == ("request.other", 1024)
    assert (second.resource_id or "")[:4] == "/\ufffd\ufffdx"


def test_bind_within_the_handler(ledger: Ledger, sealed: Sealed) -> None:
    """In the handler, a thread, or behind Starlette's BaseHTTPMiddleware, which runs the handler in another task."""

    async def endpoint(request: Request) -> Response:
        if request.url.path == "/thread":
            await run_in_threadpool(bind, actor="user:thread")
        else:
            bind(actor="service:job", actor_type="service")
        with audit_context(actor="user:inner"):
            assert current() is not None
        return PlainTextResponse("")

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app = app_of(endpoint)
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    for path in ("/thread", "/task"):
        asyncio.run(call(AuditMiddleware(app, ledger), "POST", path))
    assert [(each.actor, each.actor_type) for each in sealed()] == [("user:thread", "user"), ("service:job", "service")]
    assert current() is None


def test_actor_known_after_authentication(ledger: Ledger, sealed: Sealed) -> None:
    async def endpoint(request: Request) -> Response:
        request.scope["user"] = "42"
        return PlainTextResponse("", 403)

    async def actor(scope: Scope) -> str | None:
        await asyncio.sleep(0)
        return f"user:{scope['user']}" if "user" in scope else None

    asyncio.run(call(AuditMiddleware(app_of(endpoint), ledger, actor=actor), "GET", "/"))
    assert [each.actor for each in sealed()] == ["user:42"]


@pytest.mark.parametrize("inside", [False, True], ids=["around the application", "within it"])
def test_exception_in_the_handler(ledger: Ledger, sealed: Sealed, admin: psycopg.Connection, inside: bool) -> None:
    """What its transaction recorded is gone, the entry of the request is not."""

    async def endpoint(request: Request) -> Response:
        with psycopg.connect(admin.info.dsn, password=admin.info.password) as connection:
            ledger.record(Event("user:42", "invoice.sent"), connection=connection)
            raise ZeroDivisionError("s3cr3t")

    app: Any = app_of(endpoint)
    if inside:
        app = Starlette(routes=app.routes, middleware=[Middleware(AuditMiddleware, ledger=ledger)])
    else:
        app = AuditMiddleware(app, ledger)
    messages: list[Message] = []
    with pytest.raises(ZeroDivisionError):
        asyncio.run(call(app, "GET", "/", messages=messages))
    assert messages[0]["status"] == 500
    [entry] = sealed()
    assert metadata(entry)["outcome"] == "failure"
    assert metadata(entry).get("reason", "ZeroDivisionError") == "ZeroDivisionError"
    assert "s3cr3t" not in repr(entry)


def test_a_stream_that_fails_midway(ledger: Ledger, sealed: Sealed) -> None:
    async def endpoint(request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"some"
            raise ZeroDivisionError

        return StreamingResponse(stream())

    with pytest.raises(ZeroDivisionError):
        asyncio.run(call(AuditMiddleware(app_of(endpoint), ledger), "POST", "/"))
    assert [metadata(entry)["outcome"] for entry in sealed()] == ["success", "failure"]


def test_cancelled(ledger: Ledger, sealed: Sealed) -> None:
    started = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        app = AuditMiddleware(app_of(endpoint), ledger)
        task = asyncio.create_task(call(app, "POST", "/"))
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # again, as anyio does
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.gather(*app.recordings)

    asyncio.run(main())
    [entry] = sealed()
    assert (metadata(entry)["outcome"], metadata(entry)["reason"]) == ("failure", "CancelledError")


def test_no_response(ledger: Ledger, sealed: Sealed) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        return

    assert asyncio.run(call(AuditMiddleware(app, ledger), "POST", "/")).status is None
    assert [metadata(entry)["outcome"] for entry in sealed()] == ["failure"]


def test_two_applications_mounted(ledger: Ledger, sealed: Sealed) -> None:
    """Each has its actor and its reads; with one around both, all entries of a request have one id."""

    def mount(name: str) -> Mount:
        app = AuditMiddleware(app_of(answer()), ledger, lambda scope: f"user:{name}", requests=None, reads=["/x*"])
        return Mount(f"/{name}", app)

    async def main() -> None:
        both = Starlette(routes=[mount("a"), mount("b")])
        for path in ("/a/x1", "/b/x2", "/b/other"):
            assert (await call(both, "GET", path)).status == 200
        await call(AuditMiddleware(both, ledger), "POST", "/a/x3")

    asyncio.run(main())
    entries = sealed()
    assert [(each.actor, each.resource_id) for each in entries[:2]] == [("user:a", "/a/x1"), ("user:b", "/b/x2")]
    assert [each.resource_id for each in entries[2:]] == ["/a/x3"] * 2
    assert len({metadata(each)["request"]["id"] for each in entries[2:]}) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_request_that_cannot_be_recorded(database_url: str, strict: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and counted; strictly, the request fails."""
    before = sum(COUNTERS.sums(UNRECORDED).values())
    with Ledger(Settings(database_url=database_url, connect_timeout=1)) as nowhere:  # it has no schema
        app = AuditMiddleware(app_of(answer()), nowhere, strict=strict)
        messages: list[Message] = []
        if strict:
            with pytest.raises(Exception, match="migrate"):
                asyncio.run(call(app, "POST", "/", messages=messages))
            assert messages == []  # a server then answers with status 500
        else:
            assert asyncio.run(call(app, "POST", "/")).status == 200
    assert sum(COUNTERS.sums(UNRECORDED).values()) == before + 1
    [record] = [each for each in caplog.records if each.name == "ledger.contrib"]
    assert record.levelno == logging.ERROR
    assert "was not recorded" in record.getMessage()


def test_lifespan_and_websockets_pass_through(ledger: Ledger, sealed: Sealed) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope)
        assert current() is None

    scopes: list[Scope] = [{"type": "lifespan"}, {"type": "websocket", "path": "/"}]
    for scope in scopes:
        asyncio.run(AuditMiddleware(app, ledger)(scope, None, None))  # type: ignore[arg-type]
    assert seen == scopes
    assert sealed() == []


def test_wrong_options(ledger: Ledger) -> None:
    wrongs: list[dict[str, Any]] = [{"requests": "some"}, {"reads": "/x"}, {"trusted_proxies": ["nowhere"]}]
    for wrong in wrongs:
        with pytest.raises(InvalidSetting, match=next(iter(wrong))):
            AuditMiddleware(app_of(answer()), ledger, **wrong)
