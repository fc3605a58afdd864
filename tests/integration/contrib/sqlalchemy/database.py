"""A database with the application's tables, sessions of each kind on it, and what they recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from ledger.capture import audit_context
from ledger.contrib.sqlalchemy import Capture, Policy, capture
from tests.integration.contrib.sqlalchemy.models import Base
from tests.support.logins import Logins

Result = TypeVar("Result")
# Much faster than TRUNCATE.
_CLEAR = (
    "begin;"
    + "".join(
        f"delete from {table.name};"
        + f"alter table {table.name} alter id restart;" * any(c.identity is not None for c in table.c)
        for table in reversed(Base.metadata.sorted_tables)
    )
    + "commit"
)


_UNPREPARED: dict[str, dict[str, Any]] = {
    "psycopg": {"prepare_threshold": None},
    "asyncpg": {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str},
}
"""What each driver needs behind a transaction pooler, by its documentation."""


class Recorded(NamedTuple):
    """A row of the outbox."""

    actor: str
    action: str
    resource_id: str
    before: Any
    after: Any
    metadata: Any


class Database:
    """url: of a login that may write the application's tables and record, no more."""

    def __init__(self, admin_url: str, login: Logins) -> None:
        self.admin = psycopg.connect(admin_url, autocommit=True)
        name = self.admin.info.dbname
        self.admin.execute(f"alter database {name} set synchronous_commit = off".encode())
        engine = create_engine(admin_url.replace("postgresql://", "postgresql+psycopg://"))
        Base.metadata.create_all(engine)
        engine.dispose()
        self.url = login("ledger_recorder")
        user = psycopg.conninfo.conninfo_to_dict(self.url)["user"]
        self.admin.execute(f'grant all on all tables in schema public to "{user}"'.encode())
        self._seen = 0
        self.recorded()

    def clear(self) -> None:
        self.admin.execute(_CLEAR.encode())
        self.recorded()

    def recorded(self) -> list[Recorded]:
        """What was recorded since this was asked last."""
        rows = self.admin.execute(
            "select seq, actor, action, resource_id, before, after, metadata from ledger.outbox"
            " where seq > %s order by seq",
            (self._seen,),
        ).fetchall()
        self._seen = rows[-1][0] if rows else self._seen
        return [Recorded(*row[1:]) for row in rows]

    def close(self) -> None:
        self.admin.close()


class Sessions:
    """Sessions of one kind: what a test does with a Session, it does inside of an AsyncSession as well."""

    def __init__(self, driver: str, url: str, runner: asyncio.Runner, *, through_pooler: bool = False) -> None:
        address = url.replace("postgresql://", f"postgresql+{driver.partition(' ')[0]}://")
        options = _UNPREPARED[driver.partition(" ")[0]] if through_pooler else {}
        self.driver = driver
        self.runner = runner
        self.engine: AsyncEngine | Engine
        self.maker: Any
        if driver.endswith(" sync"):
            self.engine = self.sync_engine = create_engine(address, pool_size=5, connect_args=options)
            self.maker = sessionmaker(self.engine)
        else:
            self.engine = create_async_engine(address, pool_size=5, connect_args=options)
            self.sync_engine = self.engine.sync_engine
            self.maker = async_sessionmaker(self.engine)

    @contextmanager
    def capture(self, *classes: type, policy: Policy | None = None, **more: Any) -> Iterator[Capture]:
        with capture(self.maker, dict.fromkeys(classes, policy), **more) as running:
            yield running

    def transact(self, work: Callable[[Session], Result], actor: str | None = "user:42") -> Result:
        """Runs it in a transaction of a new session, within a context of that actor."""
        with audit_context(actor=actor):
            if isinstance(self.engine, Engine):
                with self.maker() as session:
                    result = work(session)
                    session.commit()
                    return result
            return self.runner.run(self._transact(work), context=copy_context())

    async def _transact(self, work: Callable[[Session], Result]) -> Result:
        async with self.maker() as session:
            result: Result = await session.run_sync(work)
            await session.commit()
            return result

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """What is executed meanwhile."""
        seen: list[str] = []

        def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            seen.append(statement)

        event.listen(self.sync_engine, "before_cursor_execute", before)
        yield seen
        event.remove(self.sync_engine, "before_cursor_execute", before)

    def close(self) -> None:
        if isinstance(self.engine, Engine):
            self.engine.dispose()
        else:
            self.runner.run(self.engine.dispose())
