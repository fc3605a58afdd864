"""The audit context: nesting, binding, its text, tasks, threads, generators, decorators."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import InvalidEvent, UsageError
from ledger.capture import Context, audit_context, bind, current


def actor() -> str | None:
    context = current()
    return None if context is None else context.actor


def metadata() -> dict[str, Any]:
    context = current()
    return {} if context is None else context.plain_metadata()


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    yield
    assert current() is None


def test_outside_of_a_context_there_is_none_and_nothing_can_be_bound() -> None:
    assert current() is None
    with pytest.raises(UsageError, match=r"bind\(\) outside any audit context: open one .* `with audit_context"):
        bind("user:1")


def test_a_nested_context_inherits_and_what_it_is_given_wins() -> None:
    with audit_context("user:1", reason="outer", source={"ip": "192.0.2.1", "port": {"number": 1}}, via="http"):
        with audit_context(reason="inner", source={"user_agent": "x", "port": {"name": "y"}}):
            assert actor() == "user:1"
            assert metadata() == {
                "reason": "inner",
                "source": {"ip": "192.0.2.1", "user_agent": "x", "port": {"name": "y"}},
                "via": "http",
            }
            bind(via="task:x")
        assert metadata() == {"reason": "outer", "source": {"ip": "192.0.2.1", "port": {"number": 1}}, "via": "http"}


def test_an_actors_type_is_inherited_with_that_actor_only() -> None:
    with audit_context("billing", actor_type="service"):
        with audit_context(reason="x"):
            assert current() == Context("billing", "service", {"reason": "x"})
        with audit_context("user:1"):
            assert current() == Context("user:1")
        with audit_context("billing"):
            assert current() == Context("billing", "service")
    with audit_context(actor_type="service"):
        bind("billing")
        assert current() == Context("billing", "service")
        bind("other", actor_type="robot")
        assert current() == Context("other", "robot")


def test_none_and_the_empty_text_are_no_actor() -> None:
    with audit_context("user:1"), audit_context("", actor_type=""), audit_context(None):
        assert current() == Context("user:1")


def test_a_snapshot_does_not_change() -> None:
    given = {"ip": "192.0.2.1", "list": [{"a": 1}]}
    with audit_context("user:1", source=given):
        given["ip"] = "changed"
        context = current()
        assert context is not None
        bind("user:2", source={"ip": "bound"})
        assert context.actor == "user:1"
        assert context.plain_metadata() == {"source": {"ip": "192.0.2.1", "list": [{"a": 1}]}}
        for change in (
            lambda: setattr(context, "actor", "x"),
            lambda: context.metadata.update(x=1),  # type: ignore[attr-defined]
            lambda: context.metadata["source"].update(ip="x"),
            lambda: context.metadata["source"]["list"][0].update(a=2),
            lambda: context.metadata["source"]["list"].append(1),
        ):
            with pytest.raises(AttributeError):
                change()
        plain = context.plain_metadata()
        plain["source"]["ip"] = "x"
        assert context.plain_metadata()["source"]["ip"] == "192.0.2.1"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"actor": 7}, "actor"),
        ({"actor": "x" * 256}, "actor"),
        ({"actor": "a\0b"}, "actor"),
        ({"actor": "\ud800"}, "actor"),
        ({"actor": "a", "actor_type": b"x"}, "actor_type"),
        ({"source": {"ip": float("nan")}}, "metadata.source.ip"),
        ({"when": datetime(2026, 1, 1)}, "metadata.when"),
        ({"x": object()}, "metadata.x"),
        ({"x": {1: 2}}, "metadata.x"),
    ],
)
def test_what_an_event_may_not_hold_is_refused_when_it_is_given(given: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidEvent) as refused:
        audit_context(**given)
    assert refused.value.path == path
    with audit_context("user:1"), pytest.raises(InvalidEvent):
        bind(**given)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.none() | st.just("user:é"), st.none() | st.just("user"), st.dictionaries(NAMES, JSON, max_size=4)
)  # fmt: skip
def test_the_setting_is_read_back(who: str | None, kind: str | None, members: dict[str, Any]) -> None:
    with audit_context.of(Context(who, kind, members)):
        context = current()
    assert context is not None
    text = context.setting()
    for same in (Context.from_setting(text), Context.from_setting(text.encode()), copy.deepcopy(context)):
        assert same == context and same.plain_metadata() == members
    assert pickle.loads(pickle.dumps(context)) == context  # noqa: S301


def test_the_setting_has_only_what_there_is() -> None:
    assert Context().setting() == "{}"
    assert Context("user:1").setting() == '{"actor":"user:1"}'
    with audit_context("user:1", actor_type="user", source={"ip": "::1"}, at=datetime(2026, 1, 1, tzinfo=UTC)):
        context = current()
    assert context is not None
    assert context.setting() == (
        '{"actor":"user:1","actor_type":"user","metadata":{"at":"2026-01-01T00:00:00Z","source":{"ip":"::1"}}}'
    )
    assert Context.from_setting("") == Context()


@pytest.mark.parametrize("text", ["x", "[]", '{"actor":7}', '{"metadata":[]}', "null", "[" * 100_000])
def test_another_text_is_no_setting(text: str) -> None:
    with pytest.raises(UsageError, match="not the text of an audit context"):
        Context.from_setting(text)


def test_fields_for_logs_are_flat() -> None:
    with audit_context("user:1", source={"ip": "::1", "port": {"number": 1}}, tx="7"):
        context = current()
    assert context is not None
    assert context.fields() == {"actor": "user:1", "source.ip": "::1", "source.port": {"number": 1}, "tx": "7"}


# ------------------------------------------------------------------------------------------- tasks and threads


def test_two_hundred_contexts_at_once_do_not_mix() -> None:
    async def step(number: int) -> str | None:
        await asyncio.sleep(0)
        await asyncio.to_thread(bind, request={"id": number})
        return actor()

    async def request(number: int) -> tuple[str | None, dict[str, Any]]:
        async with audit_context(source={"ip": f"192.0.2.{number}"}):
            await asyncio.create_task(login(number))
            await asyncio.gather(*(step(number) for _ in range(3)))
            with audit_context(reason=str(number)):
                await asyncio.sleep(0.001 * (number % 7))
                return actor(), metadata()

    async def login(number: int) -> None:
        await asyncio.sleep(0)
        bind(f"user:{number}")

    async def serve() -> list[tuple[str | None, dict[str, Any]]]:
        found = await asyncio.gather(*(request(number) for number in range(200)))
        assert current() is None
        return found

    assert asyncio.run(serve()) == [
        (f"user:{n}", {"source": {"ip": f"192.0.2.{n}"}, "request": {"id": n}, "reason": str(n)}) for n in range(200)
    ]


def test_a_thread_of_its_own_has_no_context_and_a_copied_one_shares_it() -> None:
    with audit_context("user:1"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(actor).result() is None
        pool.submit(copy_context().run, bind, "user:2").result()
        assert actor() == "user:2"


def test_threads_that_bind_at_once_lose_nothing() -> None:
    names = [[f"n{thread}_{number}" for number in range(50)] for thread in range(8)]
    together = threading.Barrier(8)

    def work(own: list[str]) -> None:
        together.wait()
        for name in own:
            bind(None, actor_type=None, **dict[str, Any]({name: True, "group": {name: True}}))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with audit_context("user:1"), ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(copy_context().run, work, own) for own in names]:
                done.result()
            found = metadata()
    finally:
        sys.setswitchinterval(interval)
    assert set(found["group"]) == set(found) - {"group"} == {name for own in names for name in own}


def test_a_background_task_keeps_the_context_that_it_began_in() -> None:
    async def background(may_go_on: asyncio.Event) -> tuple[str | None, str | None]:
        await may_go_on.wait()
        with audit_context(reason="later"):
            inside = actor()
        return inside, actor()

    async def main() -> tuple[str | None, str | None]:
        may_go_on = asyncio.Event()
        with audit_context("user:1"):
            task = asyncio.create_task(background(may_go_on))
            await asyncio.sleep(0)
        assert current() is None
        may_go_on.set()
        return await task

    assert asyncio.run(main()) == ("user:1", "user:1")


def test_closed_in_another_copy_it_changes_nothing_there() -> None:
    opened = audit_context("user:1")
    copy_context().run(opened.__enter__)  # as Starlette does with a dependency that is a plain generator
    copy_context().run(opened.__exit__, None, None, None)
    with audit_context("user:2"):
        opened.__exit__(None, None, None)
        assert actor() == "user:2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_bind() -> None:
    """While threads of the parent bind: the child inherits no lock that one of them holds."""
    program = """
import os, threading
from ledger.capture import audit_context, bind, current
def work():
    with audit_context():
        while not done: bind("x", a={"b": 1})
done = []
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
with audit_context("parent"):
    for _ in range(30):
        child = os.fork()
        if not child:
            bind("child")
            os._exit(current().actor != "child")
        assert os.waitpid(child, 0)[1] == 0
    assert current().actor == "parent"
done.append(1)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


# --------------------------------------------------------------------------- errors, decorators, generators


def test_an_exception_passes_through_and_ends_the_context() -> None:
    with pytest.raises(KeyError), audit_context("user:1"), audit_context("user:2"):
        raise KeyError

    async def fail() -> None:
        async with audit_context("user:1"):
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(fail())


def test_as_a_decorator_of_functions_and_coroutine_functions() -> None:
    task = audit_context("job", via="task:x")

    @task
    def count(depth: int) -> list[str | None]:
        """Doc."""
        bind(f"job:{depth}")
        return [*(count(depth - 1) if depth else []), actor()]

    @task
    async def acount(number: int) -> str | None:
        assert actor() == "job"
        bind(f"job:{number}")
        await asyncio.sleep(0)
        return actor()

    async def main() -> list[str | None]:
        return await asyncio.gather(*map(acount, range(20)))

    assert count(2) == ["job:0", "job:1", "job:2"]
    assert asyncio.run(main()) == [f"job:{number}" for number in range(20)]
    assert (count.__name__, count.__doc__) == ("count", "Doc.")


def test_a_generator_function_is_not_decorated() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def anumbers() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, anumbers):
        with pytest.raises(UsageError, match=r"numbers is a generator function"):
            audit_context("user:1")(function)


def test_generators_that_end_in_any_order_leave_nothing_open() -> None:
    def numbers(who: str, most: int) -> Generator[int, None, None]:
        with audit_context(who):
            yield from range(most)

    def consume(first: int, second: int) -> None:
        one, other = numbers("one", first), numbers("other", second)
        with audit_context("consumer"):
            next(one), next(other)
            assert [*one, *other]
            assert actor() == "consumer"
        assert current() is None

    consume(2, 3)
    one, other = numbers("one", 9), numbers("other", 9)
    next(one), next(other)
    one.close()
    assert actor() == "other"
    other.close()
    assert current() is None


def test_loading_it_loads_no_driver() -> None:
    heavy = ["psycopg", "redis", "cryptography", "click", "asyncio", "structlog", "ledger.client", "ledger.store"]
    program = f"""
import sys
import ledger.capture, ledger.capture.redaction, ledger.contrib.structlog, ledger.contrib.logging
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
