"""What may be captured: sessions, and what makes them, sync and async, as targets of SQLAlchemy's events."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ledger.errors import UsageError

_MARK = "_ledger_own"
"""An attribute of classes made here."""
Target = Any
"""A Session, AsyncSession, a class of these, or a sessionmaker, async_sessionmaker, scoped or async scoped session."""


def sync_target(target: Target) -> type[Session] | Session:
    """The session, or the class of sessions, that the events are those of. Raises UsageError.

    The sessions of an AsyncSession's class or maker get a class of their own, so that no others are captured with them.
    """
    if isinstance(target, scoped_session | async_scoped_session):
        return sync_target(target.session_factory)
    if isinstance(target, sessionmaker):
        return target.class_
    if isinstance(target, async_sessionmaker):
        given = target.kw.get("sync_session_class")
        if not _is_own(given):
            target.kw["sync_session_class"] = _own(given or target.class_.sync_session_class)
        return target.kw["sync_session_class"]  # type: ignore[no-any-return]
    if isinstance(target, AsyncSession):
        return target.sync_session
    if isinstance(target, type) and issubclass(target, AsyncSession):
        if not _is_own(vars(target).get("sync_session_class")):
            target.sync_session_class = _own(target.sync_session_class)
        return target.sync_session_class
    if isinstance(target, Session) or (isinstance(target, type) and issubclass(target, Session)):
        return target
    raise UsageError(f"not a session, nor what makes sessions: {target!r}")


def _own(base: type[Session]) -> type[Session]:
    """A class of its own."""
    return type(base.__name__, (base,), {_MARK: True})


def _is_own(candidate: type[Session] | None) -> bool:
    return candidate is not None and _MARK in vars(candidate)
