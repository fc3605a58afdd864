"""What the errors of psycopg and redis mean, in our own words."""

from __future__ import annotations

import sys

import psycopg

from ledger.effects import Refused
from ledger.errors import (
    ConnectionLost,
    LedgerError,
    RecordRefused,
    SchemaMismatch,
    StreamUnusable,
    Unavailable,
    UnknownProjection,
    UsageError,
)

# The server is going away, or has ended a session that it found silent: the connection is as good as lost.
_SHUTDOWN = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
_DAMAGED = "XX001"
"""data_corrupted."""
_OF_A_VIEW = '"ledger_views.'
_UNWILLING = {
    "ReadOnlyError": "is a replica and takes no writes: give the master's URL, or promote it",
    "OutOfMemoryError": "is out of memory and takes no writes: raise its maxmemory, or keep less (LEDGER_STREAM_KEEP)",
    "MasterDownError": "is a replica that has lost its master: give another one's URL, or promote it",
    "MISCONF": "takes no writes because it cannot save its data: look at its log and its disk",
    "NOREPLICAS": "takes no writes because too few replicas are connected: see min-replicas-to-write",
}
"""By redis-py's class, or by the code with which the answer begins where it has none."""
_UNUSABLE = {
    "WRONGTYPE": ", because a key of the ledger's holds something else (rename or delete that)",
    "MOVED": ", because this node of a cluster does not have the key (give the URL of one that has)",
    "ASK": ", because this node of a cluster does not have the key (give the URL of one that has)",
    "CROSSSLOT": ", because a cluster does not take keys of several slots at once",
    "CLUSTERDOWN": ", because its cluster is down",
    "NOPERM": ", because this user lacks a permission (ACL SETUSER gives it)",
}
"""By the code with which the answer begins: what may be right with another key or user."""


_ANEW = "nothing was recorded; roll back, and run the whole transaction again, with the same event ids"
_REMARKS = {
    "40001": "this transaction is REPEATABLE READ or SERIALIZABLE, and another append came after its snapshot: "
    f"{_ANEW}, as for any serialization failure (docs/deploying.md); or append at READ COMMITTED",
    "40P01": f"{_ANEW}. Transactions that append last, after all other locks, do not deadlock over the ledger's tail",
    "55P03": "another transaction holds the ledger's tail ('auditledger status' says who), and this connection's "
    f"lock_timeout ended the wait: {_ANEW}",
    "57014": f"if it waited for the ledger's tail, 'auditledger status' says who holds that: {_ANEW}",
    "42501": "'auditledger grant ledger_writer USER' lets a database user append",
    "42P01": "the database lacks part of the ledger's schema: is it the right one, and was 'auditledger migrate' run?",
    "3F000": "this database has no ledger: is it the right one, and was 'auditledger migrate' run?",
    "25P02": "an earlier statement of this transaction failed: roll back",
    "25006": "this transaction or this server is read-only: append on the primary, in a READ WRITE transaction",
}
"""By SQLSTATE."""


def driver_errors() -> tuple[type[Exception], ...]:
    """What may go wrong outside. Redis has no errors where it was never loaded."""
    loaded = sys.modules.get("redis")
    return (psycopg.Error, OSError, UnicodeError, *(() if loaded is None else (loaded.RedisError,)))


def as_refused(error: Exception) -> Refused | None:
    """As what a plan can handle: Postgres refused a statement, or Redis is unreachable. None for anything else."""
    if isinstance(error, psycopg.Error):
        return None if _is_lost(error) else Refused(str(error), error.sqlstate or "")
    if isinstance(error, UnicodeDecodeError):
        return Refused(str(error), _DAMAGED)
    if isinstance(error, UnicodeError):
        return None
    return Refused(_unwilling(error) or str(error), away=True)


def remark(error: Exception) -> str | None:
    """What we say besides of an error that passes through as it is, in the caller's own transaction."""
    return _REMARKS.get(getattr(error, "sqlstate", None) or "")


def _is_lost(error: psycopg.Error) -> bool:
    """Is the connection, so that what was under way may have happened? FATAL ends a session, whatever its reason.

    08: as poolers say that the server behind them is gone.
    """
    state = error.sqlstate or ""
    severity = error.diag.severity_nonlocalized or error.diag.severity
    return _is_libpqs(error) or state in _SHUTDOWN or state.startswith("08") or severity in ("FATAL", "PANIC")


def _is_libpqs(error: psycopg.Error) -> bool:
    """Is it said by libpq, which lost the server, and not by the server, nor by psycopg of what it was given?

    What libpq says while a broken pipeline is cleared away comes without a class of its own.
    """
    plain = type(error) is psycopg.DatabaseError
    return not error.sqlstate and (plain or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError))


def _is_redis(error: Exception, kind: str) -> bool:
    loaded = sys.modules.get("redis")
    return loaded is not None and isinstance(error, getattr(loaded, kind))


def translate(error: Exception) -> LedgerError:
    """A driver's error as one of ours. Messages name neither password nor URL."""
    if isinstance(error, LedgerError):
        return error
    if isinstance(error, psycopg.Error):
        return _translate_postgres(error)
    if isinstance(error, UnicodeDecodeError):
        return Unavailable(f"a text that Postgres stores is damaged: {error}")
    if isinstance(error, UnicodeError):
        return UsageError(f"a text that no server takes, such as one with a lone surrogate: {error}")
    if _is_redis(error, "AuthenticationError"):
        return Unavailable(f"Redis refuses the user or password: {error}")
    if (why := _unwilling(error)) is not None:
        return Unavailable(f"Redis {why} ({error})")
    if isinstance(error, Refused) or _is_redis(error, "ResponseError") or _is_redis(error, "InvalidResponse"):
        why = next((f" {why}" for code, why in _UNUSABLE.items() if str(error).startswith(code)), "")
        return StreamUnusable(f"Redis cannot be used{why}: {error}")
    return Unavailable(f"Redis cannot be reached: {error}")


def _unwilling(error: Exception) -> str | None:
    """Why Redis, which answers, does not do now what it may do later."""
    if not _is_redis(error, "ResponseError"):
        return None
    code = str(error).partition(" ")[0]
    return next((why for kind, why in _UNWILLING.items() if kind in (code, type(error).__name__)), None)


def _translate_postgres(error: psycopg.Error) -> LedgerError:
    state, text = error.sqlstate or "", error.diag.message_primary or " ".join(str(error).split())
    if state.startswith("LE"):
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        return RecordRefused(f"the database refused it: {text}{hint}")
    # A standby refuses `begin … read write` as a setting that is not supported.
    if state == "25006" or (state == "0A000" and error.diag.source_function == "call_bool_check_hook"):
        return Unavailable(
            f"this Postgres takes no writes ({text}): it is a standby, or default_transaction_read_only is on. Give "
            "the primary's URL, or one that names both hosts and ends with ?target_session_attrs=read-write"
        )
    if state == "40001":  # our own transactions cannot fail so on a primary
        return Unavailable(f"Postgres: {text}. On a standby set hot_standby_feedback = on; then try again")
    if state == "40P01":
        return Unavailable(f"Postgres: {text}: other transactions lock the same in another order; nothing was done")
    if state == "55P03":
        return Unavailable(f"Postgres: {text}: another transaction holds what this one needs")
    if state == "42P01" and _OF_A_VIEW in text:
        return UnknownProjection(
            f"a projection's table is missing ({text}): 'auditledger replay NAME' (or --all) makes it anew"
        )
    if state in ("42P01", "3F000", "42883", "42703"):
        return SchemaMismatch(f"the database lacks part of the schema ({text}): run 'auditledger migrate'")
    if state == "42501":
        advice = error.diag.message_hint or "'auditledger grant' gives a user a role; 'grant --help' lists them"
        return UsageError(f"this database user may not do that: {text} ({advice})")
    if not state and not _is_libpqs(error):
        return UsageError(f"Postgres cannot take that: {text}")
    if _is_lost(error):
        return ConnectionLost(f"the connection to Postgres was lost: {text}")
    if state.startswith(("XX", "58")):
        return Unavailable(
            f"Postgres cannot read or write what it stores: {text} (SQLSTATE {state}). Its log says more; damaged "
            "files are restored from a backup or a standby, damaged indexes made anew by REINDEX"
        )
    if state.startswith(("28", "3D", "53", "57")):
        return Unavailable(f"Postgres: {text}")
    return LedgerError(f"Postgres: {text} (SQLSTATE {state})")
