"""A mapped class that is captured: its columns, its keys, and the events that its changes make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    any_,
    bindparam,
    column,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.orm import MANYTOMANY, InstanceState, Mapper

from ledger.capture.action_pattern import OP
from ledger.capture.context import current
from ledger.capture.deny_patterns import denied, words
from ledger.capture.redaction import Redaction
from ledger.contrib.sqlalchemy.policy import UPDATED, Change, Policy
from ledger.contrib.sqlalchemy.values import key_text, same, typed
from ledger.errors import UsageError
from ledger.events import Event

Identity = tuple[Any, ...]
"""The values of a row's primary key, in the order of `Mapper.primary_key`."""
Values = dict[str, Any]
"""Of a row: values by the names of the class' attributes."""


class Mapped:
    """columns: by attribute, the recorded ones and those of the keys. names: their names in entries."""

    def __init__(self, mapper: Mapper[Any], policy: Policy, base: Mapper[Any], digest_key: str | None) -> None:
        """base: the mapper that the policy was given for. Raises UsageError for names that the class does not have."""
        table = getattr(base.local_table, "name", base.class_.__name__)
        self.mapper = mapper
        self.policy = policy
        self.resource_type = policy.resource_type or table
        self._action = policy.action or f"{table}.{OP}"
        every = {p.key: p.columns[0] for p in mapper.column_attrs if isinstance(p.columns[0], Column)}
        names = _names(every)
        self.primary = tuple(mapper.get_property_by_column(each).key for each in mapper.primary_key)
        self.key = tuple(_attribute(name, names) for name in policy.key) or self.primary
        excluded = {key for key, name in names.items() if _holds(policy.exclude, key, name)}
        self.columns = {k: c for k, c in every.items() if k not in excluded or k in (*self.key, *self.primary)}
        self.names = {key: name for key, name in names.items() if key not in excluded}
        self.collections = tuple(
            each.key
            for each in mapper.relationships
            if each.direction is MANYTOMANY and not each.viewonly and not _holds(policy.exclude, each.key, each.key)
        )
        self.volatile = frozenset(
            key for key, each in self.columns.items() if each.onupdate is not None or each.server_onupdate is not None
        )
        self.foreign = frozenset(key for key, each in self.columns.items() if each.foreign_keys)
        _check_names(policy, every, names, self.collections)
        self._redaction = _redaction(policy, every, names, digest_key)
        for name in (names[key] for key in self.key):
            if self._redaction.apply({name: 0}) != {name: 0}:
                raise UsageError(
                    f"the key column {name} is not to be recorded, but the key is: choose another key, or allow it"
                )

    def attribute(self, key: str) -> Any:
        return self.mapper.attrs[key].class_attribute

    def among(self, identities: Sequence[Identity], by: Sequence[str] = ()) -> ColumnElement[bool]:
        """A condition: the row's primary key, or the attributes `by`, are one of these. One parameter a column."""
        by = by or self.primary
        attributes = [self.attribute(key) for key in by]
        arrays = [
            bindparam(None, [identity[at] for identity in identities], ARRAY(self.columns[key].type), unique=True)
            for at, key in enumerate(by)
        ]
        if len(arrays) == 1:
            return attributes[0] == any_(arrays[0])  # type: ignore[no-any-return]
        columns = [column(f"key{at}", self.columns[key].type) for at, key in enumerate(by)]
        rows = func.unnest(*arrays).table_valued(*columns, name="keys").render_derived()
        return tuple_(*attributes).in_(select(*rows.c))

    def read(
        self,
        connection: Connection,
        identities: Sequence[Identity],
        keys: Iterable[str],
        *,
        by: Sequence[str] = (),
        lock: bool = False,
    ) -> dict[Identity, Values]:
        """These attributes of the rows that are `among` these, in one statement. lock: as an UPDATE would."""
        if not identities:
            return {}
        rest = [key for key in keys if key not in self.primary]
        query = select(*map(self.attribute, (*self.primary, *rest))).where(self.among(identities, by))
        if lock:
            query = query.order_by(*map(self.attribute, self.primary)).with_for_update(key_share=True)
        return self.rows(connection.execute(query).all(), rest)

    def rows(self, rows: Iterable[Sequence[Any]], rest: Sequence[str]) -> dict[Identity, Values]:
        """Rows of the primary key and these attributes, by their primary key."""
        keys, width = (*self.primary, *rest), len(self.primary)
        return {tuple(row[:width]): dict(zip(keys, row, strict=False)) for row in rows}

    def updated(self, identity: Identity, before: Values, after: Values, dialect: Dialect) -> Event | None:
        """The event of an update; None if no recorded column changed. Values that are missing did not change."""
        known = self.names.keys() & before.keys() & after.keys()
        changed = {key for key in known if not same(before[key], after[key], self.columns[key].type)}
        if not changed:
            return None
        kept = self.names if self.policy.full else changed
        old, new = ({k: v for k, v in values.items() if k in kept} for values in (before, after))
        key = {**dict(zip(self.primary, identity, strict=True)), **{k: v for k, v in before.items() if k in self.key}}
        return self.event(UPDATED, self._resource_id(key, dialect), self.typed(old, dialect), self.typed(new, dialect))

    def whole(self, op: str, values: Values, dialect: Dialect, *, gone: bool = False) -> Event | None:
        """The event of a row that came, or is gone. values: of all columns."""
        row = self.typed(values, dialect)
        return self.event(op, self._resource_id(values, dialect), row if gone else {}, {} if gone else row)

    def collection(
        self, key: str, values: Values, removed: list[Any], added: list[Any], dialect: Dialect
    ) -> Event | None:
        """The event of a many-to-many relationship: the keys of the members that went and came."""
        before, after = ({key: each} if each else {} for each in (removed, added))
        return self.event(f"{key}.changed", self._resource_id(values, dialect), before, after)

    def typed(self, values: Values, dialect: Dialect) -> dict[str, Any]:
        return {n: typed(values[k], self.columns[k].type, dialect) for k, n in self.names.items() if k in values}

    def event(self, op: str, resource_id: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Event | None:
        """Redacted, with the actor that the policy gives where the context has none; None if `when` declines it."""
        policy = self.policy
        if policy.when is not None and not policy.when(Change(op, self.resource_type, resource_id, before, after)):
            return None
        context = current()
        unknown = policy.no_actor == "unknown" and (context is None or not context.actor)
        return Event(
            *("unknown" if unknown else None, self._action.replace(OP, op), self.resource_type, resource_id),
            *("unknown" if unknown else "user", self._redacted(before), self._redacted(after)),
        )

    def _redacted(self, values: Mapping[str, Any]) -> Any:
        return self._redaction.apply(values) if values else None

    def _resource_id(self, values: Mapping[str, Any], dialect: Dialect) -> str:
        key = {self.names[each]: typed(values[each], self.columns[each].type, dialect) for each in self.key}
        return key_text(tuple(self._redaction.apply(key).values()))


def identity_of(state: InstanceState[Any]) -> Identity:
    """The primary key of an object: as it was read from the database, or, of a new one, as it was written."""
    if state.key is not None:
        return tuple(state.key[1])
    mapper = state.mapper
    return tuple(state.dict[mapper.get_property_by_column(each).key] for each in mapper.primary_key)


def _names(columns: Mapping[str, Column[Any]]) -> dict[str, str]:
    """The columns' own names. Two tables of one class may use the same: then the table's stands before it."""
    names = [each.name for each in columns.values()]
    return {
        key: each.name if names.count(each.name) == 1 else f"{each.table.name}.{each.name}"
        for key, each in columns.items()
    }


def _attribute(name: str, names: Mapping[str, str]) -> str:
    for key, each in names.items():
        if name in (key, each):
            return key
    raise UsageError(f"key names {name!r}, which is no column")


def _holds(given: Iterable[str], *names: str) -> bool:
    return not {words(each) for each in given}.isdisjoint(map(words, names))


def _check_names(
    policy: Policy, columns: Mapping[str, Column[Any]], names: Mapping[str, str], collections: Iterable[str]
) -> None:
    """Names that no column has may be keys inside of values, if there are such values; else they are mistakes."""
    if any(isinstance(each.type, JSON | HSTORE | ARRAY) or not _is_plain(each) for each in columns.values()):
        return
    known = [*names, *names.values(), *collections, *policy.exclude]
    for field in ("redact", "digest"):
        for name in getattr(policy, field):
            if not _holds([name], *known):
                raise UsageError(f"{field} names {name!r}, which is no column: {', '.join(sorted(names.values()))}")


def _is_plain(of: Column[Any]) -> bool:
    try:
        return of.type.python_type not in (dict, list, object)
    except NotImplementedError:  # SQLAlchemy's answer of a type that is of no one type of Python, such as a range
        return False


def _redaction(
    policy: Policy, columns: Mapping[str, Column[Any]], names: Mapping[str, str], digest_key: str | None
) -> Redaction:
    """By the columns' names, also where the policy or a built-in pattern names the attribute.

    Columns that SQL encrypts or makes of what is sent (`bind_expression`) are redacted: what they store is not known.
    """
    redact, digest, allow = ({*given} for given in (policy.redact, policy.digest, policy.allow))
    for key, name in names.items():
        for given in (redact, digest, allow):
            if _holds(given, key):
                given.add(name)
        patterns = denied(words(key))
        made = columns[key].type.bind_expression(bindparam(None, type_=columns[key].type)) is not None
        if (made or (patterns and not patterns <= allow)) and not _holds((*digest, *allow), name):
            redact.add(name)
    return Redaction(exclude=policy.exclude, redact=redact, digest=digest, allow=allow, digest_key=digest_key)
