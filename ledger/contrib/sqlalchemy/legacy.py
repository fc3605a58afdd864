"""`Session.bulk_save_objects`, `bulk_insert_mappings` and `bulk_update_mappings`, which call no events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect as state_of
from sqlalchemy.orm import Mapper, Session

from ledger.contrib.sqlalchemy.mapped import Identity, Mapped, Values, identity_of
from ledger.contrib.sqlalchemy.policy import CREATED

if TYPE_CHECKING:
    from ledger.contrib.sqlalchemy.capture import Capture

Rows = dict[Mapped, dict[Identity, Values]]


class Bulk:
    """Stands in for the three methods of a class of sessions, or of one session, for as long as captures want it."""

    def __init__(self, target: type[Session] | Session) -> None:
        self.captures: list[Capture] = []
        self._target = target
        for name in ("bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"):
            setattr(target, name, self._wrapped(name, getattr(target, name), isinstance(target, type)))

    def remove(self, capture: Capture) -> None:
        if capture in self.captures:
            self.captures.remove(capture)

    def _wrapped(self, name: str, original: Callable[..., None], of_class: bool) -> Callable[..., None]:
        handle: Callable[..., None] = getattr(self, f"_{name}")

        @wraps(original)
        def method(*args: Any, **kwargs: Any) -> None:
            if not self.captures:
                return original(*args, **kwargs)
            session, rest = (args[0], args[1:]) if of_class else (self._target, args)
            return handle(session, original.__get__(session) if of_class else original, *rest, **kwargs)

        return method

    def _bulk_save_objects(
        self, session: Session, original: Callable[..., None], objects: Iterable[object], *args: Any, **kwargs: Any
    ) -> None:
        objects = list(objects)
        states = [state_of(each) for each in objects]
        before = self._read(session, [(s.mapper, identity_of(s)) for s in states if s.key is not None], lock=True)
        _with_defaults(original, objects, *args, **kwargs)
        self._record(session, before, [(state.mapper, identity_of(state)) for state in states])

    def _bulk_insert_mappings(
        self,
        session: Session,
        original: Callable[..., None],
        mapper: Any,
        mappings: Iterable[Any],
        *rest: Any,
        **named: Any,
    ) -> None:
        mappings = list(mappings)
        _with_defaults(original, mapper, mappings, *rest, **named)
        self._record(session, {}, _identities(mapper, mappings))

    def _bulk_update_mappings(
        self, session: Session, original: Callable[..., None], mapper: Any, mappings: Iterable[Any]
    ) -> None:
        mappings = list(mappings)
        identities = _identities(mapper, mappings)
        before = self._read(session, identities, lock=True)
        original(mapper, mappings)
        self._record(session, before, identities)

    def _read(
        self, session: Session, identities: Iterable[tuple[Mapper[Any], Identity]], *, lock: bool = False
    ) -> dict[Capture, Rows]:
        """By capture and class: one statement each."""
        found: dict[Capture, Rows] = {}
        for capture in self.captures:
            wanted: dict[Mapped, list[Identity]] = defaultdict(list)
            for mapper, identity in identities:
                if (mapped := capture.of(mapper)) is not None:
                    wanted[mapped].append(identity)
            found[capture] = {
                mapped: mapped.read(_connection(session, mapped), keys, mapped.columns, lock=lock)
                for mapped, keys in wanted.items()
            }
        return found

    def _record(
        self, session: Session, before: dict[Capture, Rows], identities: Iterable[tuple[Mapper[Any], Identity]]
    ) -> None:
        for capture, after in self._read(session, identities).items():
            for mapped, rows in after.items():
                connection = _connection(session, mapped)
                old = before.get(capture, {}).get(mapped, {})
                events = [
                    mapped.updated(key, old[key], row, connection.dialect)
                    if key in old
                    else mapped.whole(CREATED, row, connection.dialect)
                    for key, row in rows.items()
                ]
                capture.record(connection, events)


def install(target: type[Session] | Session, capture: Capture) -> Bulk:
    bulk: Bulk | None = vars(target).get("_ledger_bulk")
    if bulk is None:
        bulk = Bulk(target)
        target._ledger_bulk = bulk  # type: ignore[union-attr]
    bulk.captures.append(capture)
    return bulk


def _with_defaults(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """With `return_defaults`, so that the new rows' keys are known."""
    at = 1 if original.__name__ == "bulk_save_objects" else 2
    if len(args) > at:
        args = (*args[:at], True, *args[at + 1 :])
    else:
        kwargs["return_defaults"] = True
    original(*args, **kwargs)


def _identities(mapper: Any, mappings: Iterable[dict[str, Any]]) -> list[tuple[Mapper[Any], Identity]]:
    found = state_of(mapper)
    keys = [found.get_property_by_column(each).key for each in found.primary_key]
    return [(found, tuple(each[key] for key in keys)) for each in mappings]


def _connection(session: Session, mapped: Mapped) -> Any:
    return session.connection(bind_arguments={"mapper": mapped.mapper})
