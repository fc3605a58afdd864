"""Searches of the view `timeline` equal those of a plain model, page by page, and use its indexes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_projections import Timeline, search
from psycopg import sql

from ledger import Entry, Event, Ledger, Query, UsageError, testing
from ledger.drivers.run import drive
from ledger.effects import Pipeline
from ledger.projection.base import install
from ledger.store.ledgers import LedgerRef, create_ledger
from tests.support.logins import logins, user_of
from tests.support.views import START, apply, entry, installed, project, projector

MAIN = LedgerRef(1, "main")
ACTIONS = ["invoice.created", "invoice.sent", "invoiceXsent", "order.sent", "100%", "a_b", "axb", "a\\b", "a*b", "ü.x"]
ACTORS = ["user:1", "o'hara", "%", "tab\there", "ünï 😀"]
RESOURCES = [("invoice", "inv_1"), ("invoice", "inv_2"), ("in'voice", "%s"), (None, None)]
PATTERNS = [
    "*",
    "invoice.*",
    "*.sent",
    "i*.s*t",
    "100%",
    "a_b",
    "a_*",
    "a\\*",
    "*%",
    "ü.*",
    "",
    "*nothing*",
    "invoice.sent",
]
MOMENTS = [START + timedelta(minutes=minutes) for minutes in (-60, 0, 31, 60, 9999)]


def events() -> Iterator[Event]:
    made = itertools.product(ACTIONS, ACTORS, RESOURCES)
    for number, (action, actor, (resource_type, resource_id)) in enumerate(made):
        occurred_at = START + timedelta(minutes=number * 7 % 90)  # not in the order of positions
        yield Event(actor, action, resource_type, resource_id, metadata={"n": number}, occurred_at=occurred_at)


def by_model(entries: list[Entry], **filters: Any) -> list[int]:
    """The positions that `search` should find, newest first."""

    def holds(each: Entry) -> bool:
        resource = each.resource_type, each.resource_id
        pattern = "(?s:.*)".join(map(re.escape, filters.get("action", "*").split("*")))
        return (
            each.actor == filters.get("actor", each.actor)
            and re.fullmatch(pattern, each.action) is not None
            and resource == filters.get("resource", resource)
            and filters.get("since", each.occurred_at) <= each.occurred_at
            and ("until" not in filters or each.occurred_at < filters["until"])
        )

    return [each.position for each in reversed(entries) if holds(each)]


def positions(entries: list[Entry]) -> list[int]:
    return [each.position for each in entries]


def test_filters_against_a_model(ledger: Ledger) -> None:
    ledger.append_many(events())
    project(ledger)
    entries = list(ledger.read())
    anything = st.fixed_dictionaries(
        {},
        optional={
            "actor": st.sampled_from([*ACTORS, "nobody"]),
            "action": st.sampled_from(PATTERNS),
            "resource": st.sampled_from([*RESOURCES[:3], ("invoice", "inv_")]),
            "since": st.sampled_from(MOMENTS),
            "until": st.sampled_from(MOMENTS),
        },
    )

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(anything)
    def run(filters: dict[str, Any]) -> None:
        found, cursor = ledger.run(search(ledger.ref, limit=1000, **filters))
        assert positions(found) == by_model(entries, **filters)
        assert found == [entries[each.position - 1] for each in found]
        assert cursor is None

    run()
    for pattern in PATTERNS:
        assert positions(ledger.run(search(ledger.ref, action=pattern, limit=1000))[0]) == by_model(
            entries, action=pattern
        )


def test_pages_while_entries_arrive(ledger: Ledger) -> None:
    ledger.append_many(events())
    with projector(ledger) as running:
        running.catch_up()
        wanted = by_model(list(ledger.read()), action="*.sent")
        found: list[int] = []
        cursor: str | None = None
        while True:
            page = ledger.run(search(ledger.ref, action="*.sent", limit=7, cursor=cursor))
            found += positions(page.entries)
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.entries) == 7
            assert len(cursor) <= 20
            ledger.append(Event("user:1", "order.sent"))
            running.catch_up()
        assert found == wanted
        exact = ledger.run(search(ledger.ref, action="a_b", limit=20))
        assert (len(exact.entries), exact.next_cursor) == (20, None)


def test_cursors_that_were_not_given(ledger: Ledger) -> None:
    ledger.append_many(events())
    project(ledger)
    cursor = ledger.run(search(ledger.ref, actor="user:1", limit=3)).next_cursor
    assert cursor is not None
    ledger.run(search(ledger.ref, actor="user:1", cursor=cursor, limit=9))
    changed = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))]
    for bad in ["", "x", "ü", "\ud800", "=" * 16, cursor[:-1], cursor + cursor, cursor + "\n", *changed]:
        with pytest.raises(UsageError, match="cursor"):
            ledger.run(search(ledger.ref, actor="user:1", cursor=bad))
    with pytest.raises(UsageError, match="other filters"):
        ledger.run(search(ledger.ref, actor="o'hara", cursor=cursor))


@pytest.mark.parametrize(
    "filters",
    [
        {"actor": "a\0"},
        {"action": "\ud800*"},
        {"resource": ("t", "\0")},
        {"text": "\0"},
        {"text": "x" * 501},
        {"since": datetime(2026, 1, 1)},
        {"limit": 0},
    ],
)
def test_questions_that_cannot_be_asked(filters: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        next(search(MAIN, **filters))


# ------------------------------------------------------------------------------------------------------------ words

BODY = {"note": "Überfällige Rechnung", "mail": "ada@example.org", "n": [1.1, 42, True, None], "path": "/etc/pass-wd"}


QUESTIONS = [
    ("überfällige", True),
    ("ÜBERFÄLLIGE rechnung", True),
    ('"überfällige rechnung"', True),
    ('"rechnung überfällige"', False),
    ("rechnung -überfällige", False),
    ("rechnung -bezahlt", True),
    ("rechnung -example.org", False),
    ("rechnung -example.com", True),
    ("or", False),
    ('-"überfällige rechnung"', False),
    ("bezahlt or rechnung", True),
    ("ada@example.org", True),
    ("example.org", True),
    ("example", True),
    ("exam", False),
    ("1.1", True),
    ("1.2", False),
    ("42", True),
    ("pass-wd", True),
    ("/etc/pass-wd", True),
    ("etc.passwd", False),
    ("invoice.sent", True),
    ("sent", True),
    ("inv_7", True),
    ("7", True),
    ("user:42", True),
    ("42:inv", False),
    ("note", False),  # a key
    ("true", False),
    ("", False),
    ("- & | ! ( ) : * <-> ' \\ %", False),
    ("rechnung & ! ( ) : * <-> ' \\ %", True),
    ('rechnung "', True),
]


def test_words(ledger: Ledger) -> None:
    ledger.append(Event("user:42", "invoice.sent", "invoice", "inv_7", metadata=BODY))
    project(ledger, [Timeline()])
    for text, found in QUESTIONS:
        assert len(ledger.run(search(ledger.ref, text=text)).entries) == found, text


def test_every_word_of_any_text_is_found(admin: psycopg.Connection) -> None:
    """Whatever is recorded: the projection does not stop at it, and each of its words finds it."""
    view, numbers = Timeline(), itertools.count(1)
    find = "select count(*) from timeline where position = %s and lexemes @@ {}"
    with installed(admin, view) as tx:

        @settings(max_examples=150, deadline=None, database=None)
        @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
        def run(text: str) -> None:
            position = next(numbers)
            view.apply(1, [entry(position, metadata_json=json.dumps([text]))], tx)
            for word in re.split(r'[\s"\0]+', text):
                if re.search("[a-zA-Z]", word) and not word.startswith("-") and word.lower() != "or":
                    asked = next(search(MAIN, text=word))
                    assert isinstance(asked, Pipeline)
                    *_, query, _ = asked.queries
                    assert isinstance(query, Query)
                    question = query.params[1]
                    where = find.format("websearch_to_tsquery('simple', %s)")
                    [(count,)] = tx.execute(where, (position, question))
                    assert count == 1, (word, question)

        run()


BODIES = {
    "NUL": '"\\u0000 word"',
    "surrogate": '"\\ud800 word"',
    "deep": f'["word",{"[" * 3000}{"]" * 3000}]',
    "long word": f'["word","{"x" * 300_000}"]',
    "numbers": f'["word",1e400,{"1" * 5000}]',
    "words": json.dumps(["word", *(f"{number:x}-{number}" for number in range(60_000))]),
}


def test_bodies_of_other_writers(admin: psycopg.Connection) -> None:
    view = Timeline()
    with installed(admin, view) as tx:
        for position, (name, body) in enumerate(BODIES.items(), 1):
            apply(view, 1, [entry(position, before_json=body)], tx, 1)
            find = "select position from timeline where lexemes @@ 'word'::tsquery"
            assert (position,) in tx.execute(find), name
        apply(view, 1, [entry(100, salt=None)], tx, 1)


# ------------------------------------------------------------------------------------------------------------ plans

USES = [
    ({}, "timeline_pkey"),
    ({"actor": "user:7"}, "timeline_by_actor"),
    ({"action": "thing.act7"}, "timeline_by_action"),
    ({"action": "thing.act77*"}, "timeline_by_action"),
    ({"action": "thing.act77*x*"}, "timeline_by_action"),
    ({"resource": ("thing", "t7")}, "timeline_by_resource"),
    (
        {"since": START, "until": START + timedelta(minutes=2)},
        "timeline_by_time|Index Only Scan Backward using timeline_pkey",
    ),
    ({"until": START + timedelta(days=5), "since": START}, "Index Only Scan Backward using timeline_pkey"),
    ({"text": "word77"}, "timeline_by_words"),
    ({"text": '"word77 x"', "actor": "user:7"}, "timeline_by_"),
]


@pytest.fixture(scope="module")
def plenty(servers: Any, template: str) -> Iterator[psycopg.Connection]:
    """A timeline of 20,000 rows in each of two ledgers, and some entries of the first."""
    with (
        testing.database(servers.database_url, template=template) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        drive(create_ledger("second"), connection)
        drive(install(Timeline(), [MAIN, LedgerRef(2, "second")]), connection)
        connection.execute("set search_path = ledger_views, pg_catalog")
        connection.execute(
            """
            insert into timeline
            select
                l, n, gen_random_uuid(), now(), %s::timestamptz + n * interval '1 minute', 'user:' || n %% 500, 'user',
                'thing.act' || n %% 300, 'thing', 't' || n %% 2000, 'x word' || n %% 4000 || ' y'
            from generate_series(1, 2) as l, generate_series(1, 20000) as n
            """,
            (START,),
        )
        with Ledger.open(database_url=url) as ledger:
            ledger.append_many(Event("a", "b", after=number) for number in range(3000))
        connection.execute("vacuum analyze timeline, ledger.audit_logs")
        yield connection


@pytest.fixture(scope="module")
def asked(plenty: psycopg.Connection, servers: Any) -> Iterator[Callable[[str, Query, str], str]]:
    """Asks as the superuser or as a reader of one ledger; the plans, those within functions among them."""
    notices: list[str] = []
    plenty.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    plenty.execute(
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
        "set auto_explain.log_level = notice"
    )

    def ask(user: str, query: Query, mode: str) -> str:
        counter = itertools.count(1)
        numbered = re.sub("%s", lambda _: f"${next(counter)}", query.sql)
        values = sql.SQL(", ").join(map(sql.Literal, query.params))
        plenty.execute(f"set plan_cache_mode = {mode}; set role {user}".encode())
        plenty.execute(b"prepare question as " + numbered.encode())
        notices.clear()
        plenty.execute(sql.SQL("execute question({})").format(values))
        plans = "\n".join(notices)
        plenty.execute("deallocate question; reset role")
        return plans

    with logins(testing.other_database(servers.database_url, plenty.info.dbname)) as login:
        ask.reader = user_of(login("ledger_reader", ledgers=["main"]))  # type: ignore[attr-defined]
        yield ask


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("user", ["superuser", "reader"])
@pytest.mark.parametrize(("filters", "index"), USES)
def test_each_filter_uses_its_index(asked: Any, filters: dict[str, Any], index: str, user: str, mode: str) -> None:
    """Row-level security among the filters or not."""
    asked_for = next(search(MAIN, **filters, limit=20))
    assert isinstance(asked_for, Pipeline)
    *_, query, _ = asked_for.queries
    plans = asked("none" if user == "superuser" else asked.reader, query, mode)
    assert re.search(index, plans), plans
    assert not re.search("Seq Scan on (ledger_views.|ledger.)?(timeline|audit_logs)", plans), plans
    assert "one_entry_per_position on audit_logs" in plans, plans


def test_search_runs_on_any_connection(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(Event("user:1", "user.login"))
    project(ledger, [Timeline()])
    assert len(drive(search(ledger.ref), admin).entries) == 1
