"""The WSGI middleware, with Flask and with bare applications: contexts, entries, streams and their ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from ledger import Entry, Event, Ledger, Settings
from ledger.capture import bind, current
from ledger.contrib.wsgi import App, AuditMiddleware
from tests.integration.contrib.conftest import Sealed


def who(environ: dict[str, Any]) -> str | None:
    user = environ.get("HTTP_X_USER")
    return user and f"user:{user}"


def facts(entry: Entry) -> tuple[str, str | None, str, str | None]:
    metadata: Any = entry.metadata
    return entry.actor, entry.resource_id, metadata["outcome"], metadata.get("reason")


def respond(status: str = "200 OK", body: Iterable[bytes] = (b"answer",)) -> App:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, [])
        return body

    return app


def test_200_requests_at_once(ledger: Ledger, sealed: Sealed) -> None:
    app = flask.Flask(__name__)
    together = threading.Barrier(20, timeout=30)

    @app.post("/things/<int:number>")
    def change(number: int) -> flask.Response:
        together.wait()
        ledger.record(Event(None, "act.handler"))

        def stream() -> Iterator[bytes]:
            yield b""
            together.wait()
            ledger.record(Event(None, "act.stream"))
            yield b"streamed"

        return flask.Response(flask.stream_with_context(stream()))

    app.wsgi_app = AuditMiddleware(app.wsgi_app, ledger, actor=who)  # type: ignore[method-assign]

    def post(number: int) -> bytes:
        with app.test_client() as client:
            data: bytes = client.post(f"/things/{number}", headers={"X-User": str(number)}).data
            return data

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(post, range(200))) == {b"streamed"}
    entries = sealed()
    assert Counter(entry.action for entry in entries) == dict.fromkeys(
        ("act.handler", "act.stream", "request.post"), 200
    )
    requests: dict[str, set[str]] = {}
    for entry in entries:
        metadata: Any = entry.metadata
        assert entry.actor == f"user:{metadata['request']['path'].removeprefix('/things/')}"
        requests.setdefault(metadata["request"]["id"], set()).add(entry.actor)
    assert len(requests) == 200
    assert all(len(actors) == 1 for actors in requests.values())
    assert current() is None


def test_outcomes_with_flask(ledger: Ledger, sealed: Sealed) -> None:
    app = flask.Flask(__name__)

    @app.route("/<what>", methods=["GET", "POST"])
    def handle(what: str) -> str:
        if what == "denied":
            flask.abort(403)
        if what == "broken":
            raise ZeroDivisionError("s3cr3t")
        bind(actor="user:late")
        return what

    app.wsgi_app = AuditMiddleware(app.wsgi_app, ledger, reads=["/patient*"])  # type: ignore[method-assign]
    client = app.test_client()
    for method, path in (
        ("GET", "/denied"),
        ("GET", "/broken"),
        ("GET", "/other"),
        ("GET", "/patient"),
        ("POST", "/x"),
    ):
        client.open(path, method=method, query_string={"token": "s3cr3t"}, data={"password": "s3cr3t"})
    entries = sealed()
    assert [facts(entry) for entry in entries] == [
        ("anonymous", "/denied", "denied", None),
        ("anonymous", "/broken", "failure", None),
        ("user:late", "/patient", "success", None),
        ("user:late", "/x", "success", None),
    ]
    assert "s3cr3t" not in repr(entries)


def test_exceptions_streams_and_ends(ledger: Ledger, sealed: Sealed) -> None:
    """What fails is recorded, in the call, midway and in close(); what never begins is, too."""
    closed: list[str] = []

    class Body:
        def __init__(self, *chunks: bytes | Exception) -> None:
            self.chunks = iter(chunks)

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            assert current() is not None
            chunk = next(self.chunks)
            if isinstance(chunk, Exception):
                raise chunk
            return chunk

        def close(self) -> None:
            context = current()
            assert context is not None
            closed.append(context.metadata["request"]["path"])

    def fails(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise ZeroDivisionError

    def writes(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("201 Created", [])(b"written")
        assert [facts(entry)[2] for entry in sealed()][-1] == "success"  # before the first bytes
        return []

    def replaces(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        start_response("500 Error", [], (None, None, None))
        return Body(b"")

    def lazy(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        bind(actor="user:lazy")
        start_response("403 Forbidden", [])
        yield b""
        context = current()
        assert context is not None
        assert context.actor == "user:lazy"
        yield b"answer"

    apps: dict[str, App] = {
        "/fails": fails,
        "/writes": writes,
        "/replaces": replaces,
        "/lazy": lazy,
        "/midway": respond(body=Body(b"some", ZeroDivisionError())),
        "/before": respond(body=Body(ZeroDivisionError())),
        "/whole": respond(body=Body(b"some", b"more")),
    }
    for path, app in apps.items():
        environ = EnvironBuilder(path, method="PUT").get_environ()
        response: Any = None
        try:
            response = AuditMiddleware(app, ledger)(environ, lambda *arguments: lambda data: None)
            list(response)
        except ZeroDivisionError:
            pass
        finally:
            getattr(response, "close", lambda: None)()
    assert [facts(entry) for entry in sealed()] == [
        ("anonymous", "/fails", "failure", "ZeroDivisionError"),
        ("anonymous", "/writes", "success", None),
        ("anonymous", "/replaces", "failure", None),
        ("user:lazy", "/lazy", "denied", None),
        ("anonymous", "/midway", "success", None),
        ("anonymous", "/midway", "failure", "ZeroDivisionError"),
        ("anonymous", "/before", "failure", "ZeroDivisionError"),
        ("anonymous", "/whole", "success", None),
    ]
    assert closed == ["/replaces", "/midway", "/before", "/whole"]


def test_paths_below_a_root(ledger: Ledger, sealed: Sealed) -> None:
    environ = EnvironBuilder("/patients/\u00fc", base_url="http://localhost/api").get_environ()
    status = run_wsgi_app(AuditMiddleware(respond(), ledger, requests=None, reads=["/patients/*"]), environ)[1]
    assert status == "200 OK"
    assert [entry.resource_id for entry in sealed()] == ["/api/patients/\u00fc"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_request_that_cannot_be_recorded(database_url: str, strict: bool) -> None:
    with Ledger(Settings(database_url=database_url)) as nowhere:  # it has no schema
        post: Callable[[], Any] = lambda: Client(AuditMiddleware(respond(), nowhere, strict=strict)).post("/")  # noqa: E731
        if strict:
            with pytest.raises(Exception, match="migrate"):
                post()
        else:
            assert post().status_code == 200
