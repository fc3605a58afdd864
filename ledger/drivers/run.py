"""Runs plans, sync and async: asks psycopg and redis for each effect.

A plan runs on two sides: a Postgres connection and a Redis client. Either may be missing if the plan does not need it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from ledger.drivers.cursors import AsyncConnection, Connection
from ledger.drivers.errors import as_refused, driver_errors, remark, translate
from ledger.drivers.lent import open_transactions
from ledger.drivers.postgres import aperform, perform
from ledger.effects import Command, Effect, LentTransactions, LuaScript, Plan, Refused, Wait
from ledger.errors import InvalidSetting

if TYPE_CHECKING:
    import redis.asyncio

T = TypeVar("T")
# redis-py takes long to load and 10 MiB; most processes that verify or append need none of it.
Redis: TypeAlias = "redis.Redis"
AsyncRedis: TypeAlias = "redis.asyncio.Redis"


def drive(
    plan: Plan[T],
    connection: Connection | Callable[[], Connection] | None = None,
    redis_client: Redis | None = None,
    *,
    raw_errors: bool = False,
) -> T:
    """Runs a plan to its end and returns its result. The plan sees Refused; whatever else goes wrong ends it.

    connection: or a function that gives it, called at each effect of Postgres'.
    raw_errors: let the drivers' own errors out, for plans in the caller's transaction.
    """
    connect = connection if connection is None or callable(connection) else lambda: connection
    try:
        effect = next(plan)
        while True:
            try:
                brought = _perform(effect, connect, redis_client)
            except driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    except Refused as refused:  # the plan's own: a reply that it had not foreseen
        raise translate(refused) from refused
    finally:
        plan.close()


async def adrive(
    plan: Plan[T],
    connection: AsyncConnection | Callable[[], Awaitable[AsyncConnection]] | None = None,
    redis_client: AsyncRedis | None = None,
    *,
    raw_errors: bool = False,
) -> T:
    """`drive`, awaited."""
    connect = connection if connection is None or callable(connection) else _giving(connection)
    try:
        effect = next(plan)
        while True:
            try:
                brought = await _aperform(effect, connect, redis_client)
            except driver_errors() as error:
                effect = _throw(plan, error, raw_errors)
            else:
                effect = plan.send(brought)
    except StopIteration as stop:
        return cast(T, stop.value)
    except Refused as refused:
        raise translate(refused) from refused
    finally:
        plan.close()


def _giving(connection: AsyncConnection) -> Callable[[], Awaitable[AsyncConnection]]:
    async def connect() -> AsyncConnection:
        return connection

    return connect


def _throw(plan: Plan[Any], error: Exception, raw: bool) -> Effect:
    """Lets the plan handle a refusal. An error that it does not handle goes on in our words, from the original."""
    refused = as_refused(error)
    if refused is not None:
        refused.__cause__ = error
        try:
            return plan.throw(refused)
        except Refused as unhandled:
            if unhandled is not refused:
                raise
    if raw:
        if (text := remark(error)) is not None:
            error.add_note(f"auditledger: {text}")
        raise error
    raise translate(error) from error


def _perform(effect: Effect, connection: Callable[[], Connection] | None, client: Redis | None) -> Any:
    if isinstance(effect, Wait):
        return time.sleep(effect.seconds)
    if isinstance(effect, LentTransactions):
        return open_transactions()
    if isinstance(effect, Command | LuaScript):
        try:
            return cast(Any, _needed(client, "Redis")).execute_command(*_redis_args(effect))
        except _SENSELESS as error:
            raise _senseless(error) from error
    return perform(effect, _needed(connection, "Postgres")())


async def _aperform(
    effect: Effect, connection: Callable[[], Awaitable[AsyncConnection]] | None, client: AsyncRedis | None
) -> Any:
    if isinstance(effect, Wait):
        return await asyncio.sleep(effect.seconds)
    if isinstance(effect, LentTransactions):
        return open_transactions()
    if isinstance(effect, Command | LuaScript):
        try:
            return await cast(Any, _needed(client, "Redis")).execute_command(*_redis_args(effect))
        except _SENSELESS as error:
            raise _senseless(error) from error
    return await aperform(effect, await _needed(connection, "Postgres")())


_SENSELESS = (ArithmeticError, AttributeError, EOFError, LookupError, RecursionError, TypeError, UnicodeDecodeError)
"""What redis-py lets out, besides errors of its own, when something else than Redis listens there."""


def _senseless(error: Exception) -> Exception:
    import redis  # noqa: PLC0415 - loaded already: it raised that

    return redis.InvalidResponse(f"the answer was none of Redis ({type(error).__name__}): what listens there?")


def _redis_args(effect: Command | LuaScript) -> list[Any]:
    """Numbers as text: hiredis 3.5 crashes the process where a signal's handler raises while it packs an int."""
    if isinstance(effect, Command):
        args: Iterable[Any] = effect.args
    else:
        args = ("EVAL", effect.lua, len(effect.keys), *effect.keys, *effect.args)
    return [str(arg) if arg.__class__ is int else arg for arg in args]


def _needed(side: T | None, name: str) -> T:
    if side is None:
        raise InvalidSetting(f"this needs {name}, and none was given: set LEDGER_{name.upper()}_URL")
    return side
