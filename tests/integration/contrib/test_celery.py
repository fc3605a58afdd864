"""Celery: tasks have the context of who sent them, through retries, chains, groups and chords, in a real worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery, Task, chain, chord, group
from celery.contrib.testing.worker import start_worker
from celery.signals import before_task_publish

from ledger import Entry, Event, Ledger, testing
from ledger.capture import audit_context, bind, current
from ledger.contrib import celery as adapter
from tests.integration.contrib.conftest import Sealed

# Celery 5.7 calls what redis-py 8 calls deprecated, in the worker's threads.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
LEDGERS: list[Ledger] = []
"""The last one is that of the test that runs."""


def make_app(url: str) -> Celery:
    app = Celery("billing", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True, worker_hijack_root_logger=False, task_default_queue="audit"
    )
    adapter.install(app)

    @app.task(name="billing.note", shared=False)  # type: ignore[untyped-decorator]
    def note(*names: str) -> str:
        LEDGERS[-1].record(Event(None, f"note.{names[-1]}"))
        return names[-1]

    @app.task(name="billing.retried", shared=False, bind=True, max_retries=2, default_retry_delay=0)  # type: ignore[untyped-decorator]
    def retried(self: Task) -> None:
        LEDGERS[-1].record(Event(None, f"try.{self.request.retries}"))
        if self.request.retries == 0:
            bind(reason="bound in the first attempt")
        if self.request.retries < 2:
            raise self.retry()

    @app.task(name="billing.sends", shared=False)  # type: ignore[untyped-decorator]
    def sends() -> None:
        bind(actor="user:late")
        note.delay("sent")

    @app.task(name="billing.fails", shared=False)  # type: ignore[untyped-decorator]
    def fails() -> None:
        bind(actor="user:failing")
        raise ZeroDivisionError

    return app


@pytest.fixture(scope="module")
def worker(servers: testing.TestServers, pytestconfig: pytest.Config) -> Iterator[Celery]:
    """With a worker that runs in threads of this process, on a logical database that no test flushes."""
    number = getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0").removeprefix("gw")
    url = testing.redis_database(servers.redis_url, testing.REDIS_DATABASES - 1 - int(number))
    with (
        closing(make_app(url)) as app,
        start_worker(app, perform_ping_check=False, pool="threads", concurrency=4),
    ):
        yield app


@pytest.fixture
def app(worker: Celery, ledger: Ledger) -> Celery:
    LEDGERS.append(ledger)
    return worker


def facts(entry: Entry) -> tuple[str, str, str]:
    metadata: Any = entry.metadata
    return entry.action, entry.actor, metadata["via"]


def test_who_sent_it(app: Celery, sealed: Sealed) -> None:
    """Two senders at once: each task of theirs, however it comes to be sent, is theirs."""
    note = app.tasks["billing.note"]

    def send(actor: str) -> None:
        with audit_context(actor=actor, request={"id": f"req-{actor}"}, source={"ip": "192.0.2.1"}):
            results = [
                note.delay("one"),
                app.tasks["billing.retried"].delay(),
                chain(note.s("chain1"), note.s("chain2"))(),
                group(note.s("group1"), note.s("group2"))(),
                chord([note.s("chord1"), note.s("chord2")])(note.si("body")),
                app.send_task("billing.note", ["by_name"], countdown=0),
            ]
        for result in results:
            result.get(timeout=30, interval=0.02)

    threads = [threading.Thread(target=send, args=(f"user:{n}",)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = "one chain1 chain2 group1 group2 chord1 chord2 body by_name"
    expected = [(f"note.{name}", "celery:billing.note") for name in names.split()]
    expected += [(f"try.{n}", "celery:billing.retried") for n in range(3)]
    entries = sealed()
    assert sorted(map(facts, entries)) == sorted((action, f"user:{n}", via) for action, via in expected for n in (1, 2))
    for entry in entries:
        metadata: Any = entry.metadata
        assert metadata["request"]["id"] == f"req-{entry.actor}"
        assert metadata["source"] == {"ip": "192.0.2.1"}
        assert len(metadata["task"]["id"]) == 36
        if entry.action in ("try.1", "try.2"):
            assert metadata["reason"] == "bound in the first attempt"
    assert len({entry.metadata["task"]["id"] for entry in entries}) == 2 * 10
    assert current() is None


def test_nothing_is_left_of_a_task(app: Celery, sealed: Sealed) -> None:
    """What a task binds goes with what it sends, and with nothing that the same thread runs later."""
    for name, problem in (("fails", "ZeroDivision"), ("note", "actor")):
        results = [app.tasks[f"billing.{name}"].apply_async(["x"] * (name == "note")) for _ in range(8)]
        for result in results:
            with pytest.raises(Exception) as raised:
                result.get(timeout=30, interval=0.02)
            assert problem in repr(raised.value)
    app.tasks["billing.sends"].delay().get(timeout=30, interval=0.02)
    while not (entries := sealed()):
        pass
    assert [facts(entry) for entry in entries] == [("note.sent", "user:late", "celery:billing.note")]


def test_a_forged_header(app: Celery, sealed: Sealed, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out, and the task runs without."""
    forged: Any = None

    def forge(headers: dict[str, Any], **_: Any) -> None:
        headers[adapter.HEADER] = forged

    before_task_publish.connect(forge)
    try:
        for forged in ("{", 7, '{"actor": 7}'):  # noqa: B007 - forge sends it
            with pytest.raises(Exception, match="actor"):
                app.tasks["billing.note"].delay("x").get(timeout=30, interval=0.02)
    finally:
        before_task_publish.disconnect(forge)
    assert sealed() == []
    assert sum("is no audit context" in record.getMessage() for record in caplog.records) == 2  # 7 is no text at all


def test_eager(ledger: Ledger, sealed: Sealed) -> None:
    """Tasks that run where they are sent, in the sender's context."""
    LEDGERS.append(ledger)
    app = make_app("redis://unused")
    app.conf.update(task_always_eager=True)
    with audit_context(actor="user:1", reason="ticket 7"):
        app.tasks["billing.note"].delay("eager")
        app.tasks["billing.retried"].delay()
        context = current()
        assert context is not None
        assert context.metadata == {"reason": "ticket 7"}
    entries = sealed()
    assert [facts(entry)[:2] for entry in entries] == [
        ("note.eager", "user:1"),
        *((f"try.{n}", "user:1") for n in range(3)),
    ]
    assert facts(entries[0])[2] == "celery:billing.note"
