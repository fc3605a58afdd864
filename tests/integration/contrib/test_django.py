"""Django: contexts and entries of requests, the context in the database, and events on Django's connections."""

from __future__ import annotations

import asyncio
import io
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ledger import Entry, Event
from ledger.capture import audit_context, bind, current
from ledger.errors import InvalidEvent
from tests.integration.contrib.django_project import OPTIONS, Project


@pytest.fixture(scope="module", autouse=True)
def _triggers(project: Project) -> None:
    from django.apps import apps
    from django.contrib.auth.models import User
    from django.db import connections
    from django.db.migrations.state import ProjectState

    from ledger.contrib.django.operations import CaptureTable

    captured = (
        CaptureTable("Invoice", resource_type="invoice", redact=["iban"], no_actor="unknown"),
        CaptureTable("shop.Invoice_tags", action="invoice_tag.{op}", no_actor="unknown"),
    )
    state = ProjectState.from_apps(apps)
    for alias in ("default", "other"):
        with connections[alias].schema_editor() as editor:
            for operation in captured:
                operation.database_forwards("shop", editor, state, state)
        project.entries(alias)
    User.objects.create_superuser("ada", password="s3cr3t")


@pytest.fixture(autouse=True)
def _clean(project: Project) -> Iterator[None]:
    from tests.integration.contrib.shop.models import Invoice

    yield
    for alias in ("default", "other"):
        Invoice.objects.using(alias).all().delete()
        project.entries(alias)
    assert current() is None


def facts(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(entry.action, entry.actor) for entry in entries]


def metadata(entry: Entry) -> dict[str, Any]:
    found = entry.metadata
    assert isinstance(found, dict)
    return found


def client(**options: Any) -> Any:
    from django.test import Client

    return Client(raise_request_exception=False, **options)


def logged_in(name: str = "ada") -> Any:
    from django.contrib.auth.models import User

    made = client()
    made.force_login(User.objects.get(username=name))
    return made


def test_requests(project: Project) -> None:
    from django.contrib.auth.models import User

    actor = f"user:{User.objects.get().pk}"
    user = logged_in()
    project.entries()
    assert user.post("/create/1?token=s3cr3t", {"password": "s3cr3t"}).status_code == 200
    entries = project.entries()
    assert facts(entries) == [
        ("invoice.created", actor),
        ("invoice.updated", actor),
        ("invoice.sent", actor),
        ("request.post", actor),
    ]
    assert len({metadata(entry)["request"]["id"] for entry in entries}) == 1
    assert metadata(entries[0])["tx"] != metadata(entries[1])["tx"]
    assert metadata(entries[-1]) == {
        "outcome": "success",
        "response": {"status": 200},
        "request": {"id": metadata(entries[0])["request"]["id"], "method": "POST", "path": "/create/1"},
        "source": {"ip": "127.0.0.1"},
    }
    assert "s3cr3t" not in repr(entries)


def test_outcomes(project: Project, settings_atomic: None) -> None:
    """The entry of a failed request is there, and what its transaction did is not."""
    anonymous = client()
    for path in ("/fail", "/deny", "/page", "/patients/7", "/stream", "/nowhere"):
        anonymous.get(path).close()
    with audit_context(actor="user:reader"):
        assert b"".join(anonymous.get("/stream").streaming_content) == b"rows"
    entries = project.entries()
    assert [(e.action, e.resource_id, metadata(e).get("outcome"), metadata(e).get("reason")) for e in entries] == [
        ("request.get", "/fail", "failure", "ZeroDivisionError"),
        ("request.get", "/deny", "denied", None),
        ("request.get", "/patients/7", "success", None),
        ("row.read", None, None, None),
    ]
    assert {entry.actor for entry in entries} == {"anonymous", "user:reader"}
    assert "s3cr3t" not in repr(entries)


@pytest.fixture
def settings_atomic(project: Project) -> Iterator[None]:
    from django.db import connections

    for alias in ("default", "other"):
        connections[alias].settings_dict["ATOMIC_REQUESTS"] = True
    yield
    for alias in ("default", "other"):
        connections[alias].settings_dict["ATOMIC_REQUESTS"] = False


def test_who_logs_in_is_the_actor(project: Project) -> None:
    from django.contrib.auth.models import User

    visitor = client()
    visitor.post("/log-in", {"name": "ada", "password": "wrong"})
    visitor.post("/log-in", {"name": "ada", "password": "s3cr3t"})
    visitor.get("/patients/7")
    entries = project.entries()
    actor = f"user:{User.objects.get().pk}"
    assert [(entry.actor, metadata(entry)["outcome"]) for entry in entries] == [
        ("anonymous", "denied"),
        (actor, "success"),
        (actor, "success"),
    ]


def test_a_page_that_needs_no_user_does_not_ask(project: Project) -> None:
    """No query, and no `Vary: Cookie`, which would keep it out of caches."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    user = logged_in()
    with CaptureQueriesContext(connection) as queries:
        response = user.get("/page")
    assert len(queries) == 0
    assert "Vary" not in response.headers


def test_200_requests_at_once(project: Project) -> None:
    """On threads, and on one event loop."""
    from asgiref.sync import sync_to_async
    from django.db import connections
    from django.test import AsyncClient

    def post(number: int) -> None:
        client().post(f"/create/{number}", headers={"user-agent": f"agent {number}", "actor": f"user:{number}"})
        connections.close_all()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(post, range(150)))

    async def apost(number: int) -> None:
        await AsyncClient().post(f"/acreate/{number}", headers={"actor": f"user:{number}"})

    async def main() -> None:
        await asyncio.gather(*map(apost, range(150, 200)))
        await sync_to_async(connections.close_all)()

    asyncio.run(main())
    requests: dict[str, list[Entry]] = {}
    for entry in project.entries():
        requests.setdefault(metadata(entry)["request"]["path"], []).append(entry)
    assert len(requests) == 200
    for path, entries in requests.items():
        number = int(path.rpartition("/")[2])
        assert len({metadata(entry)["request"]["id"] for entry in entries}) == 1
        assert len(entries) == (4 if number < 150 else 2)
        assert {entry.actor for entry in entries} == {f"user:{number}"}
        if number < 150:
            assert metadata(entries[-1])["source"]["user_agent"] == f"agent {number}"
    transactions = [metadata(entry)["tx"] for each in requests.values() for entry in each if "tx" in metadata(entry)]
    assert len(set(transactions)) == len(transactions) == 350


def test_async_requests(project: Project) -> None:
    from asgiref.sync import sync_to_async
    from django.contrib.auth.models import User
    from django.db import connections
    from django.test import AsyncClient

    async def main() -> None:
        user = AsyncClient(raise_request_exception=False)
        await user.aforce_login(await User.objects.aget())
        await user.post("/acreate/2")
        await user.get("/deny")
        assert b"".join([chunk async for chunk in await user.get("/astream")]) == b"rows"
        await sync_to_async(connections.close_all)()

    asyncio.run(main())
    actor = f"user:{User.objects.get().pk}"
    assert facts(project.entries()) == [
        ("invoice.created", actor),
        ("request.post", actor),
        ("request.get", actor),
        ("row.read", actor),
    ]


def test_a_cancelled_request(project: Project) -> None:
    """As when the client is gone: the entry is recorded all the same."""
    from asgiref.sync import sync_to_async
    from django.db import connections
    from django.test import AsyncRequestFactory

    from ledger.contrib.django.middleware import AuditMiddleware

    async def main() -> None:
        started = asyncio.Event()

        async def view(request: Any) -> Any:
            started.set()
            await asyncio.Event().wait()

        handling = asyncio.ensure_future(AuditMiddleware(view)(AsyncRequestFactory().get("/page")))
        await started.wait()
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        await sync_to_async(connections.close_all)()

    asyncio.run(main())
    [entry] = project.entries()
    assert (metadata(entry)["outcome"], metadata(entry)["reason"]) == ("failure", "CancelledError")


def test_every_way_to_write(project: Project) -> None:
    """Single, bulk, upsert, update, raw SQL, many-to-many and the admin; with a transaction, and without."""
    from django.db import connection, transaction

    from tests.integration.contrib.shop.models import Invoice, Tag

    with audit_context(actor="user:42"):
        invoice = Invoice.objects.create(number=1)
        invoice.save()  # without a change, and without an entry
        Invoice.objects.bulk_create([Invoice(number=n) for n in (2, 3)])
        Invoice.objects.bulk_create(
            [Invoice(number=3, status="upserted")],
            update_conflicts=True,
            unique_fields=["number"],
            update_fields=["status"],
        )
        Invoice.objects.filter(number=1).update(status="sent")
        invoice.tags.add(Tag.objects.create(name="urgent"))
        with connection.cursor() as cursor:
            cursor.execute("/* raw */ update shop_invoice set status = 'raw' where number = %s", [2])
            cursor.execute("with one as (select 2 as n) update shop_invoice set status = '' from one where number = n")
            cursor.executemany("insert into shop_invoice (number, status, iban) values (%s, '', '')", [(4,), (5,)])
        with transaction.atomic():
            Invoice.objects.select_for_update().get(number=1)
            Invoice.objects.create(number=6)
    entries = project.entries()
    assert {entry.actor for entry in entries} == {"user:42"}
    inserts, updates = ["created"] * 3, ["updated"] * 2
    expected = [*inserts, *updates, "created", *updates, *inserts]
    assert [entry.action.partition(".")[2] for entry in entries] == expected
    response = logged_in().post("/admin/shop/invoice/add/", {"number": 7, "status": "new", "iban": "DE89", "tags": [1]})
    assert response.status_code == 302
    entries = project.entries()
    invoice_created, *_, request = entries
    assert (invoice_created.action, request.action) == ("invoice.created", "request.post")
    assert metadata(invoice_created)["request"]["id"] == metadata(request)["request"]["id"]
    assert invoice_created.after["iban"] == {"$redacted": True}
    assert "DE89" not in repr(entries)


def test_one_setting_a_transaction(project: Project) -> None:
    """Statements as Postgres sees them: the setting once a transaction, and again only where it must be."""
    from django.db import connection, transaction

    from tests.integration.contrib.shop.models import Invoice

    def create(number: int) -> None:
        Invoice.objects.create(number=number)

    sent = Sent(connection)
    with audit_context(actor="user:1"):
        with transaction.atomic():
            Invoice.objects.count()
            assert sent.since() == 0  # not before the first write
            for number in range(10):
                create(number)
            assert sent.since() == 1
            bind(actor="user:2")
            create(10)
            assert sent.since() == 1
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                create(11)
                bind(actor="user:3")
                create(12)
                raise ZeroDivisionError
            assert sent.since() == 1
            create(13)
            assert sent.since() == 1
            create(14)
            assert sent.since() == 0
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            create(15)
            raise ZeroDivisionError
        assert sent.since() == 1
        create(16)
        assert sent.since() == 1
    create(17)
    with transaction.atomic():
        create(18)
    assert sent.since() == 0
    actors = ["user:1"] * 10 + ["user:2"] + ["user:3"] * 3 + ["unknown"] * 2
    assert [entry.actor for entry in project.entries()] == actors


class Sent:
    """Counts what is sent beneath Django's cursors."""

    def __init__(self, connection: Any) -> None:
        from ledger.contrib.django import database

        connection.ensure_connection()
        [self._wrapper] = [each for each in connection.execute_wrappers if isinstance(each, database.SendsContext)]
        self._connection = connection
        self._before = self._count()

    def since(self) -> int:
        before, self._before = self._before, self._count()
        return self._before - before

    def _count(self) -> int:
        return int(self._wrapper.count)


def test_context_ends_within_a_transaction(project: Project) -> None:
    """As in a TestCase, whose transaction spans several requests."""
    from django.db import transaction

    from tests.integration.contrib.shop.models import Invoice

    with transaction.atomic():
        for actor in ("user:1", "user:2"):
            with audit_context(actor=actor):
                Invoice.objects.create(number=int(actor[-1]))
        Invoice.objects.create(number=3)
    assert [entry.actor for entry in project.entries()] == ["user:1", "user:2", "unknown"]


def test_record(project: Project) -> None:
    from django.db import DatabaseError, transaction
    from django.test import override_settings

    from ledger.contrib.django import record, record_many, send_context

    with audit_context(actor="user:42", reason="ticket 7"):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            record(Event(None, "rolled.back"))
            raise ZeroDivisionError
        with transaction.atomic():
            first = record(Event(None, "invoice.sent", "invoice", "7"))
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                record(Event(None, "savepoint.rolled.back"))
                raise ZeroDivisionError
        rest = record_many(Event("user:43", f"row.{n}") for n in range(3))
    with pytest.raises(InvalidEvent, match="actor"):
        record(Event(None, "invoice.sent"))
    with pytest.raises(transaction.TransactionManagementError):
        send_context()
    with pytest.raises(DatabaseError, match="unknown"), override_settings(AUDIT_LEDGER={"LEDGER": "unknown"}):
        record(Event("user:1", "x"))
    entries = project.entries()
    assert [entry.id for entry in entries] == [first, *rest]
    assert [entry.actor for entry in entries] == ["user:42", "user:43", "user:43", "user:43"]
    assert metadata(entries[0]) == {"reason": "ticket 7"}


def test_two_databases(project: Project) -> None:
    from django.db import connections, transaction

    from ledger.contrib.django import record, send_context
    from tests.integration.contrib.shop.models import Invoice

    with audit_context(actor="user:42"), transaction.atomic(), transaction.atomic(using="other"):
        Invoice.objects.create(number=1)
        Invoice.objects.using("other").create(number=2)
        record(Event(None, "act.other"), using="other")
        send_context(using="other")
        with connections["other"].cursor() as cursor:
            cursor.execute("select current_setting('ledger.context')")
            assert "user:42" in cursor.fetchone()[0]
    assert facts(project.entries()) == [("invoice.created", "user:42")]
    assert facts(project.entries("other")) == [("invoice.created", "user:42"), ("act.other", "user:42")]


def test_in_a_test_case(project: Project) -> None:
    """What a TestCase records is rolled back with it, and its own counts are as without the ledger."""
    from django.test import TestCase

    from tests.integration.contrib.shop.models import Invoice

    class Case(TestCase):  # type: ignore[misc]
        databases = frozenset(["default"])

        def test_posts(self) -> None:
            with self.captureOnCommitCallbacks() as callbacks:
                self.client.post("/create/1", headers={"actor": "user:1"})
            self.assertEqual(callbacks, [])
            with audit_context(actor="user:1"), self.assertNumQueries(1):
                Invoice.objects.filter(number=1).update(status="x")

    result = unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromTestCase(Case))
    assert result.wasSuccessful(), result.failures + result.errors
    assert result.testsRun == 1
    assert project.entries() == []


def test_settings(project: Project) -> None:
    from django.core.exceptions import ImproperlyConfigured
    from django.test import override_settings

    from ledger.contrib.django import conf

    wrongs: list[dict[str, object]] = [{"REQUEST": "all"}, {"REQUESTS": "some"}, {"LEDGER": "Main!"}, {"DATABASES": []}]
    for wrong in wrongs:
        with override_settings(AUDIT_LEDGER=wrong), pytest.raises(ImproperlyConfigured, match="AUDIT_LEDGER"):
            conf.options()
    with override_settings(AUDIT_LEDGER={**OPTIONS, "ACTOR": lambda request: "service:all", "REQUESTS": "all"}):
        client().get("/page")
    assert facts(project.entries()) == [("request.get", "service:all")]


@pytest.mark.parametrize("strict", [False, True])
def test_a_request_that_cannot_be_recorded(project: Project, strict: bool) -> None:
    from django.test import override_settings

    with override_settings(AUDIT_LEDGER={**OPTIONS, "LEDGER": "unknown", "STRICT": strict}):
        assert client().post("/page").status_code == (500 if strict else 200)
    assert project.entries() == []
