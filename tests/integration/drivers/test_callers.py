"""append on the caller's connection, in any state: a true receipt, or UsageError."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.types.json import set_json_loads
from psycopg.types.string import StrDumper

from ledger import AsyncLedger, Event, Ledger
from ledger.checkpoints.keys import create_key
from ledger.drivers.cursors import ADAPTERS, Cursor
from ledger.errors import IdempotencyConflict, SchemaMismatch, UsageError
from ledger.migrate.migrate import migrate
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings
from tests.support.clusters import Cluster
from tests.support.helpers import checked, event, events, receipt_of
from tests.support.views import project, rows, some_events

TEXT = "José, Ünal, 東京, €, Ω"


@pytest.fixture
def caller(migrated_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(migrated_url) as connection:
        yield connection


def url_of(ledger: Ledger) -> str:
    return ledger.settings.database_url or ""


# ------------------------------------------------------------------------------------------------------------ encoding

ENCODINGS = ["LATIN1", "LATIN9", "WIN1252", "EUC_JP", "SJIS", "SQL_ASCII", "KOI8R", "BIG5", "GB18030", "UTF8"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_of_the_client(ledger: Ledger, encoding: str) -> None:
    said = event(0, id=UUID(int=7), actor=f"user:{TEXT}", resource_type=TEXT, resource_id=TEXT, metadata={TEXT: TEXT})
    with psycopg.connect(url_of(ledger), client_encoding=encoding) as connection:
        for _ in range(8):
            connection.execute("select 1")
            receipt = ledger.append(said, connection=connection)
        assert ledger.append_many([event(1, actor=TEXT)] * 3, connection=connection).count == 3
        ledger.append(event(2, actor=TEXT), connection=connection)
        with pytest.raises(IdempotencyConflict, match="with another actor"):
            ledger.append(event(0, id=UUID(int=7), actor="other"), connection=connection)
        assert connection.info.parameter_status("client_encoding") == encoding
    entries = checked(ledger)
    assert receipt_of(entries[0]) == receipt
    assert (entries[0].actor, entries[0].metadata) == (f"user:{TEXT}", {TEXT: TEXT})
    assert [entry.actor for entry in entries[1:]] == [TEXT] * 4
    assert ledger.verify().ok


@pytest.mark.parametrize(
    ("encoding", "text"), [("LATIN1", "José"), ("WIN1252", "José, 5 €"), ("EUC_JP", "東京"), ("KOI8R", "Привет")]
)
def test_text_that_the_clients_encoding_has(ledger: Ledger, encoding: str, text: str) -> None:
    """Nothing failed there: what was stored had been read in another encoding, and no longer matched its hash."""
    said = event(0, actor=f"user:{text}", after={"name": text})
    with psycopg.connect(url_of(ledger), client_encoding=encoding) as connection:
        ledger.append_many([said] * 2, connection=connection)
        ledger.append(said, connection=connection)
    assert [(entry.actor, entry.after) for entry in ledger.read()] == [(f"user:{text}", {"name": text})] * 3
    report = ledger.verify()
    assert report.ok, report.findings
    project(ledger)


def test_an_encoding_is_put_back_after_an_error(ledger: Ledger) -> None:
    with psycopg.connect(url_of(ledger), client_encoding="LATIN1") as connection:
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            ledger.append(event(0), connection=connection)
            connection.execute("select 1/0")
        assert connection.execute("select 'é'").fetchone() == ("é",)
        assert connection.info.parameter_status("client_encoding") == "LATIN1"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_any_encoding_async(ledger: Ledger, encoding: str) -> None:
    async def work() -> None:
        connection = await psycopg.AsyncConnection.connect(url_of(ledger), client_encoding=encoding)
        async with connection, AsyncLedger(ledger.settings) as other:
            await other.append(event(0, actor=TEXT), connection=connection)
            await other.append_many([event(1, actor=TEXT)] * 3, connection=connection)

    asyncio.run(work())
    assert [entry.actor for entry in checked(ledger)] == [TEXT] * 4


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII"])
@settings(max_examples=25)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40), max_size=4))
def test_any_text(hypothesis_ledger: Ledger, encoding: str, texts: list[str]) -> None:
    before = hypothesis_ledger.tail().position
    with psycopg.connect(url_of(hypothesis_ledger), client_encoding=encoding) as connection:
        for text in texts:
            hypothesis_ledger.append(event(after={"text": text}), connection=connection)
        hypothesis_ledger.append_many([event(after={"text": text}) for text in texts], connection=connection)
    assert [entry.after["text"] for entry in hypothesis_ledger.read(after=before)] == texts * 2


@pytest.fixture(scope="module")
def hypothesis_ledger(servers: Any, template: str) -> Iterator[Ledger]:
    from ledger import testing

    with testing.database(servers.database_url, template=template) as url, Ledger.open(database_url=url) as opened:
        yield opened


def test_the_environments_encoding(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with Ledger(ledger.settings) as other, psycopg.connect(url_of(ledger)) as connection:
        other.append_many([event(0, actor=TEXT)] * 2)
        other.append(event(0, actor=TEXT), connection=connection)
        assert [entry.actor for entry in other.read()] == [TEXT] * 2
    monkeypatch.delenv("PGCLIENTENCODING")
    assert [entry.actor for entry in checked(ledger)] == [TEXT] * 3


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_refused(database_url: str, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}_{database_url.rpartition('_')[2]}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        made = f"create database {name} encoding '{encoding}' locale 'C' template template0"
        admin.execute(made.encode())
        try:
            url = database_url.rpartition("/")[0] + f"/{name}"
            for dry_run in (True, False):
                with pytest.raises(SchemaMismatch, match=f"encoding is {encoding}: create one with UTF8"):
                    migrate(Settings(database_url=url), dry_run=dry_run)
            with Ledger(Settings(database_url=url)) as ledger, pytest.raises(SchemaMismatch):
                ledger.append(event(0))
        finally:
            admin.execute(f"drop database {name} with (force)".encode())


# ------------------------------------------------------------------------------------------------ state of the session


def in_a_pipeline(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    with connection.pipeline():
        append()


def in_a_nested_pipeline(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    with connection.pipeline(), connection.transaction(), connection.pipeline():
        connection.execute("select 1")
        append()


def in_an_aborted_pipeline(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    with connection.pipeline():
        with pytest.raises(psycopg.Error):
            connection.execute("select 1/0").fetchall()
        append()


def while_it_streams(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    streaming: Any = connection.cursor().stream("select generate_series(1, 10)")
    next(streaming)
    try:
        append()
    finally:
        streaming.close()


def while_it_copies(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    connection.execute("create temp table things (id int)")
    with connection.cursor().copy("copy things from stdin") as copy:
        copy.write_row((1,))
        append()


def closed(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    connection.close()
    append()


def without_a_transaction(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    connection.autocommit = True
    append()


def in_use_by_another_thread(connection: psycopg.Connection[Any], append: Callable[[], None]) -> None:
    other = threading.Thread(target=connection.execute, args=("select pg_sleep(1)",))
    other.start()
    while connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
        pass
    try:
        append()
    finally:
        other.join()


STATES = [
    in_a_pipeline, in_a_nested_pipeline, in_an_aborted_pipeline, while_it_streams, while_it_copies, closed,
    without_a_transaction, in_use_by_another_thread,
]  # fmt: skip


@pytest.mark.parametrize("many", [False, True], ids=["append", "append_many"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_what_cannot_give_a_receipt_is_refused(
    ledger: Ledger, caller: psycopg.Connection[Any], state: Callable[..., None], many: bool
) -> None:
    def append() -> None:
        if many:
            ledger.append_many(events(3), connection=caller)
        else:
            ledger.append(event(0), connection=caller)

    with pytest.raises(UsageError, match=r"^the connection is "):
        state(caller, append)
    if not caller.closed:
        caller.close()
    assert checked(ledger) == []


@pytest.mark.parametrize("nested", [False, True])
def test_a_pipeline_async(ledger: Ledger, nested: bool) -> None:
    async def work() -> None:
        connection = await psycopg.AsyncConnection.connect(url_of(ledger))
        async with connection, AsyncLedger(ledger.settings) as other:
            with pytest.raises(UsageError, match=r"^the connection is in pipeline mode"):
                async with connection.pipeline() as outer:
                    if nested:
                        async with connection.pipeline():
                            await other.append(event(0), connection=connection)
                    await other.append(event(0), connection=connection)
                    await outer.sync()
            await connection.rollback()
            await other.append(event(1), connection=connection)

    asyncio.run(work())
    assert len(checked(ledger)) == 1


def test_within_two_phases(primary: Cluster) -> None:
    """The entry is recorded once the prepared transaction is committed."""
    with Ledger(Settings(database_url=primary.url())) as ledger, psycopg.connect(primary.url()) as connection:
        connection.tpc_begin("of the caller")
        receipt = ledger.append(event(0), connection=connection)
        connection.tpc_prepare()
        with pytest.raises(UsageError, match=r"^the connection is between the two phases"):
            ledger.append(event(1), connection=connection)
        assert list(ledger.read()) == []
        connection.tpc_commit()
        assert [receipt_of(entry) for entry in checked(ledger)] == [receipt]


# ------------------------------------------------------------------------------------------------------------ adapters


class Shouting(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return obj.upper().encode() + b"!"


class Wrong(Loader):
    format = psycopg.pq.Format.BINARY

    def load(self, data: Buffer) -> Any:
        return "wrong"


class WrongText(Wrong):
    format = psycopg.pq.Format.TEXT


class WrongDumper(Dumper):
    def dump(self, obj: Any) -> Buffer | None:
        raise RuntimeError("an application's own dumper")


LOADED = (
    "text",
    "varchar",
    "uuid",
    "int2",
    "int4",
    "int8",
    "bytea",
    "timestamptz",
    "bool",
    "json",
    "jsonb",
    "name",
    "text[]",
)


def mistreat(context: Any) -> None:
    context.adapters.register_dumper(str, Shouting)
    for kind in (int, bytes, UUID, datetime, list, bool, type(None)):
        context.adapters.register_dumper(kind, WrongDumper)
    for name in LOADED:
        oid = psycopg.postgres.types[name.removesuffix("[]")]
        for loader in (Wrong, WrongText):
            context.adapters.register_loader(oid.array_oid if name.endswith("[]") else oid.oid, loader)


@pytest.fixture
def global_adapters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an application registers for all its connections."""
    kept = psycopg.adapt.AdaptersMap(psycopg.adapters)
    mistreat(psycopg)
    set_json_loads(lambda data: "wrong")
    yield
    set_json_loads(json.loads)
    for name in ("_dumpers", "_own_dumpers", "_dumpers_by_oid", "_own_dumpers_by_oid", "_loaders", "_own_loaders"):
        setattr(psycopg.adapters, name, getattr(kept, name))


def test_global_adapters_do_not_reach_ours(global_adapters: None, database_url: str) -> None:
    settings = Settings(database_url=database_url)
    migrate(settings)
    assert migrate(settings) == []
    with Ledger(settings) as ledger:
        said = event(0, id=UUID(int=7), occurred_at=datetime(2020, 1, 1, tzinfo=UTC))
        receipt = ledger.append(said)
        for _ in range(8):
            assert ledger.append(said) == receipt
        ledger.append_many(events(20))
        ledger.append_many(some_events(30))
        project(ledger)
        entries = checked(ledger)
        assert receipt_of(entries[0]) == receipt and entries[0].actor == "user:42"
        assert ledger.erase(2, "user:1", "asked").position == len(entries) + 1
        assert ledger.verify(workers=2).ok


@pytest.mark.parametrize("factory", [psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor])
def test_adapters_and_factories_of_the_callers_connection(ledger: Ledger, factory: Any) -> None:
    with psycopg.connect(url_of(ledger), cursor_factory=factory, row_factory=psycopg.rows.dict_row) as connection:
        mistreat(connection)
        connection.server_cursor_factory = psycopg.ServerCursor
        said = event(0, id=UUID(int=7))
        receipts = [ledger.append(said, connection=connection) for _ in range(7)]
        ledger.append(event(1), connection=connection)
        ledger.append_many(events(3), connection=connection)
    assert receipts == [receipt_of(checked(ledger)[0])] * 7


def test_times_are_in_utc_whatever_the_session_has(ledger: Ledger, migrated_url: str) -> None:
    with psycopg.connect(migrated_url, options="-c TimeZone=Asia/Tokyo") as connection:
        receipt = ledger.append(event(0, id=UUID(int=7)), connection=connection)
        again = ledger.append(event(0, id=UUID(int=7)), connection=connection)
    assert (receipt.recorded_at.tzinfo, again.recorded_at.tzinfo) == (UTC, UTC)


# ------------------------------------------------------------------------------------------------------------ settings

SETTINGS = {
    "standard_conforming_strings": "off", "quote_all_identifiers": "on", "row_security": "off", "array_nulls": "off",
    "search_path": "nowhere", "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
    "bytea_output": "escape", "DateStyle": "German", "IntervalStyle": "iso_8601", "TimeZone": "Asia/Tokyo",
    "extra_float_digits": "-15", "xmloption": "document", "client_min_messages": "debug5", "jit": "off",
    "statement_timeout": "60s", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "30s",
    "synchronous_commit": "off", "transform_null_equals": "on", "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off", "default_text_search_config": "german", "escape_string_warning": "off",
    "backslash_quote": "off", "check_function_bodies": "off", "client_encoding": "LATIN1", "work_mem": "64kB",
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_database(ledger: Ledger, admin: psycopg.Connection, name: str) -> None:
    """Everything works, and nothing is found that is not there."""
    url, database = url_of(ledger), admin.info.dbname
    admin.execute(psycopg.sql.SQL("alter database {} set {} = {}").format(
        psycopg.sql.Identifier(database), psycopg.sql.Identifier(name), SETTINGS[name])
    )  # fmt: skip
    assert migrate(Settings(database_url=url)) == []
    with Ledger(ledger.settings) as other, psycopg.connect(url) as connection:
        nothing = event(0, id=UUID(int=7), actor=TEXT, after=None)
        receipt = other.append(nothing)
        assert other.append(nothing) == receipt == other.append(nothing, connection=connection)
        connection.commit()
        for number in range(8):
            other.append(event(number))
        other.append_many(some_events(30))
        other.append_many(events(5), connection=connection)
        connection.commit()
        project(other)
        entries = checked(other)
        assert receipt_of(entries[0]) == receipt and entries[0].recorded_at.tzinfo is UTC
        assert len(rows(admin, "timeline")) == len(entries)
        report = other.verify()
        assert report.ok, report.findings


def test_a_database_that_is_read_only_by_default(ledger: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    """Our transactions say themselves what they are: the single statements of a signer or of a group, too."""
    admin.execute(f"alter database {admin.info.dbname} set default_transaction_read_only = on".encode())
    create_key(tmp_path / "key", "example.org/main")
    with Ledger(ledger.settings) as other:
        receipts = [other.append(event(number)) for number in range(3)]
        receipts.append(other.append_many(events(5)).last)  # type: ignore[arg-type]
        assert other.checkpoint(str(tmp_path / "key")).size == 8
        for delivery in other.subscribe("mailer", after=0, idle=0.2):
            delivery.ack()
        assert [group.position for group in other.groups()] == [8]
        rebuild(other.settings, find_projections(["timeline"])[0])
        assert [receipt_of(entry) for entry in checked(other) if entry.position in (1, 2, 3, 8)] == receipts
        assert other.verify().ok
        with psycopg.connect(url_of(ledger)) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            other.append(event(0), connection=connection)


def test_a_receipt_is_durable_whatever_the_role_says(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Of a commit that does not wait, Postgres may lose the last fraction of a second."""
    admin.execute("create table public.seen (how text)")
    admin.execute(
        "create function public.look() returns trigger language plpgsql as "
        "$$ begin insert into public.seen values (current_setting('synchronous_commit')); return null; end $$"
    )
    admin.execute(
        "create trigger look after insert on ledger.audit_logs for each statement execute function public.look()"
    )
    admin.execute(f"alter database {admin.info.dbname} set synchronous_commit = off".encode())
    with Ledger(ledger.settings) as other:
        for number in range(3):
            other.append(event(number))
        other.append_many(events(5))
        other.append(event(9), expect=8)
    assert set(admin.execute("select how from public.seen").fetchall()) == {("on",)}


def test_row_security_off_for_a_reader(ledger: Ledger, login: Any, admin: psycopg.Connection) -> None:
    url = login("ledger_writer", "ledger_reader", ledgers=["main"])
    admin.execute(f"alter database {admin.info.dbname} set row_security = off".encode())
    with Ledger(Settings(database_url=url)) as other:
        other.append(event(0))
        assert len(list(other.read())) == 1


def test_events_of_no_kind(ledger: Ledger) -> None:
    with psycopg.connect(url_of(ledger)) as connection, pytest.raises(UsageError):
        ledger.append(Event("a\ud800", "b"), connection=connection)


def test_our_cursors_read_whatever_psycopg_reads_by_default(migrated_url: str) -> None:
    """Arrays above all, whose converters psycopg registers apart from the others."""
    for known in ADAPTERS.types:
        for oid in filter(None, (known.oid, known.array_oid)):
            for form in (pq.Format.BINARY, pq.Format.TEXT):
                ours, theirs = ADAPTERS.get_loader(oid, form), psycopg.adapters.get_loader(oid, form)
                assert (ours is None) == (theirs is None), (known.name, oid, form)
    with psycopg.connect(migrated_url) as connection:
        rows = Cursor(connection).execute(
            "select '{6,8}'::bigint[], '{a,null,NULL}'::text[], array['2026-01-02 03:04:05+00'::timestamptz],"
            " '{}'::uuid[], array[decode('00ff', 'hex')]"
        )
        wanted: tuple[Any, ...] = (
            [6, 8],
            ["a", None, None],
            [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)],
            [],
            [b"\0\xff"],
        )
        assert rows.fetchall() == [wanted]
