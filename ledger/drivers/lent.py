"""Connections that callers lend (`connection=`): what they must be, and which of them are in a transaction.

What was handed in instead is known by the names of its classes; no library is imported for that.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from ledger.errors import UsageError

IDLE = 0
"""libpq's PQTRANS_IDLE."""
_lent: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Every connection that was lent, and the process that it was lent to: a fork inherits what is not its own."""


def lent(connection: Any, kind: type) -> None:
    """Remembers a connection that a caller lent. Raises UsageError, saying what it is, where it is not of that kind.

    And where a parent of this process lent it: two processes that speak over one socket take each other's answers.
    """
    if not isinstance(connection, kind):
        raise UsageError(_what_it_is(connection, kind))
    if _lent.setdefault(connection, os.getpid()) != os.getpid():
        raise UsageError(
            "the connection belongs to the parent of this process, which lent it before the fork: open one in the child"
        )


def open_transactions() -> frozenset[int]:
    """The backends of those lent connections of this process that are in a transaction now."""
    return frozenset(
        connection.info.backend_pid
        for connection, process in list(_lent.items())
        if process == os.getpid() and not connection.closed and connection.info.transaction_status != IDLE
    )


_SQLALCHEMY = {
    "Session": "session.connection().connection.driver_connection",
    "scoped_session": "session.connection().connection.driver_connection",
    "Connection": "connection.connection.driver_connection",
    "_ConnectionFairy": "connection.driver_connection",
    "AdaptedConnection": "connection.driver_connection",
    "AsyncSession": "(await (await session.connection()).get_raw_connection()).driver_connection",
    "async_scoped_session": "(await (await session.connection()).get_raw_connection()).driver_connection",
    "AsyncConnection": "(await connection.get_raw_connection()).driver_connection",
    "Engine": "connection.connection.driver_connection of what engine.begin() gives",
    "AsyncEngine": "(await connection.get_raw_connection()).driver_connection of what engine.begin() gives",
    "sessionmaker": "session.connection().connection.driver_connection of a session",
    "async_sessionmaker": "(await (await session.connection()).get_raw_connection()).driver_connection of a session",
    "SQLAlchemy": "db.session.connection().connection.driver_connection",
}
_INSIDE = {
    "psycopg": {
        "Cursor": "cursor.connection",
        "AsyncCursor": "cursor.connection",
        "Transaction": "transaction.connection",
        "AsyncTransaction": "transaction.connection",
    },
    "psycopg_pool": {
        "ConnectionPool": "the connection of `with pool.connection() as connection`",
        "AsyncConnectionPool": "the connection of `async with pool.connection() as connection`",
    },
    "sqlalchemy": _SQLALCHEMY,
    "flask_sqlalchemy": _SQLALCHEMY,
    "django": {
        "DatabaseWrapper": "connection.connection, inside transaction.atomic()",
        "ConnectionProxy": "connection.connection, inside transaction.atomic()",
        "CursorWrapper": "cursor.db.connection, inside transaction.atomic()",
    },
}
"""Where the driver's connection is found in what wraps one: by package and class."""
_OTHER_DRIVERS = ("asyncpg", "psycopg2", "aiopg", "pg8000", "sqlite3", "MySQLdb", "pymysql", "oracledb", "_psycopg")
_EITHER = ("_ConnectionFairy", "AdaptedConnection")
"""They wrap connections of both kinds."""
_PSYCOPG = ("psycopg", "psycopg_async")
"""psycopg 3, as SQLAlchemy calls it."""


def _what_it_is(handed: Any, kind: type) -> str:
    wanted = f"connection= takes a psycopg.{kind.__name__} (psycopg 3)"
    ledger, other = "a Ledger", "an AsyncLedger"
    if kind.__name__.startswith("Async"):
        ledger, other = other, ledger
    if isinstance(handed, str | bytes):  # not repeated: it may hold a password
        return f"{wanted}, not a text: connect with it first, psycopg.connect(…), and append within a transaction"
    classes = (handed if isinstance(handed, type) else type(handed)).__mro__
    known = [(each.__module__.partition(".")[0], each.__name__) for each in classes]
    name = ".".join(known[0]).removeprefix("builtins.")
    if isinstance(handed, type):
        return f"{wanted}, not the class {name}"
    if ("psycopg", "BaseConnection") in known:
        return f"{wanted} in {ledger}, not {name}: that one belongs to {other}"
    driver = _driver(handed)
    if driver is not None and driver not in _PSYCOPG:
        return f"{wanted}, not {name} on the driver {driver}: {_instead(driver)}"
    for package, class_name in known:
        if package in _OTHER_DRIVERS:
            return f"{wanted}, not {name}: {_instead(package)}"
        if (inside := _INSIDE.get(package, {}).get(class_name)) is not None:
            if driver is None and package in ("sqlalchemy", "flask_sqlalchemy", "django"):
                inside += ", which must be psycopg 3's (SQLAlchemy: postgresql+psycopg://)"
            if class_name.lower().startswith("async") != (ledger == "an AsyncLedger") and class_name not in _EITHER:
                inside += f", to {other}"
            return f"{wanted}, not {name}: give {inside}"
    if hasattr(handed, "__await__"):
        return f"{wanted}, not {name}: await it first"
    if hasattr(handed, "__enter__") or hasattr(handed, "__aenter__"):
        return f"{wanted}, not {name}: give what `with` or `async with` makes of it, if that is one"
    return f"{wanted}, not {name}"


def _driver(handed: Any) -> str | None:
    """The name of the driver under a wrapper of SQLAlchemy's or Django's; None if it has none. Connects nothing."""
    for path in ("dialect.driver", "bind.dialect.driver", "Database.__name__", "db.Database.__name__"):
        value = handed
        with suppress(Exception):  # a proxy may have nothing behind it
            for name in path.split("."):
                value = getattr(value, name)
            if isinstance(value, str):
                return value
    package = type(getattr(handed, "driver_connection", None)).__module__.partition(".")[0]
    return package if package in (*_OTHER_DRIVERS, *_PSYCOPG) else None


def _instead(driver: str) -> str:
    return (
        f"{driver} cannot carry the append. Use psycopg 3 for this transaction (SQLAlchemy: postgresql+psycopg://), or "
        "append without connection= once yours is committed"
    )
