"""The state of all ledgers, for `status`, `doctor` and the metrics.

What an unreachable server knows, and what the database user may not see, is reported as unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ledger.drivers.pools import Connector
from ledger.drivers.run import Redis
from ledger.effects import Command, Plan, Query, Refused, Row, SqlScript, Wait
from ledger.errors import LedgerError, StreamUnusable, Unavailable
from ledger.migrate.migrate import check_schema, load_migrations
from ledger.ops.redact import without_literals
from ledger.ops.status_types import (
    NOT_SET,
    OK,
    Blocked,
    Holder,
    Lag,
    LedgerState,
    Outbox,
    Overview,
    Place,
    Refusal,
    Stopped,
    StreamPlace,
    Verified,
)
from ledger.settings import LEDGER_NAME
from ledger.statements import sql
from ledger.store import quarantine
from ledger.store.ledgers import SQL as STORE
from ledger.store.ledgers import LedgerRef, unknown_ledger
from ledger.store.stored_rows import SQL as SCAN
from ledger.stream import commands, wire
from ledger.stream.commands import StreamState
from ledger.stream.wire import NO_ID, StreamId
from ledger.verify import protections

T = TypeVar("T")
SQL = sql(__file__)

REDIS_TIMEOUT = 3.0
"""Seconds in which Redis must answer."""
STUCK = 1.0
"""Seconds after which a transaction that holds a tail lock is reported; appends hold it for milliseconds."""
SECOND_LOOK = 0.5
"""Seconds after which it must still hold the lock: a long transaction may have appended as its last step."""
_DENIED = "42501"


def look(connector: Connector, names: Collection[str] | None) -> Overview:
    """The state of all ledgers. names: only these. Raises UnknownLedger, SchemaMismatch, MigrationTampered."""
    postgres, states, unprotected = OK, list[LedgerState](), None
    hidden: list[str] = []
    try:
        newer = connector.run(check_schema(load_migrations()))
        states = connector.run(_ledgers(names, hidden))
        unprotected = connector.run(_allowed(_unprotected(newer), "protections", hidden))
    except Unavailable as error:
        postgres = str(error)
    redis = NOT_SET
    if connector.settings.redis_url is not None:
        client = connector.new_redis(REDIS_TIMEOUT)
        try:
            redis, states = _with_streams(connector, client, states, names, postgres)
        finally:
            client.close()
    if postgres == OK:
        try:
            states = connector.run(_with_stopped(states, hidden))
        except Unavailable as error:
            postgres = str(error)
    return Overview(postgres, redis, tuple(states), unprotected, tuple(hidden))


# ---------------------------------------------------------------------------------------------------------- Postgres


def _ledgers(names: Collection[str] | None, hidden: list[str]) -> Plan[list[LedgerState]]:
    # Offsets are read before the tails: read after them, they could seem to be ahead.
    projections = yield from _allowed(_rows("projections"), "projections", hidden)
    subscriptions = yield from _allowed(_rows("subscriptions"), "subscriptions", hidden)
    verifications = yield from _allowed(_rows("verifications"), "verified", hidden)
    outboxes = yield from _allowed(_outboxes(), "outbox", hidden)
    verified = {row[0]: Verified(*row[1:]) for row in verifications or ()}
    all_rows = yield Query(SQL["ledgers"])
    rows = [row for row in all_rows if names is None or row[1] in names]
    missing = set(names or ()) - {row[1] for row in rows}
    if missing:
        raise unknown_ledger(min(missing), (row[1] for row in all_rows))
    holders = (yield from _allowed(_stuck(), "holder", hidden)) or {}
    refusals = yield from _allowed(_refusals(), "refusals", hidden)
    states = []
    for row in rows:
        state = LedgerState(row[1], row[0], *row[2:])
        places = []
        for kind in (projections, subscriptions):
            places.append(None if kind is None else (yield from _places(state, kind)))
        states.append(
            state._replace(
                projections=places[0],
                subscriptions=places[1],
                verified=verified.get(row[0]),
                holder=holders.get(row[0]),
                outbox=None if outboxes is None else outboxes.get(row[0]),
                refusals=None if refusals is None else tuple(refusals.get(row[0], ())),
            )
        )
    return states


def _with_stopped(states: list[LedgerState], hidden: list[str]) -> Plan[list[LedgerState]]:
    """Checks the entry after each offset, and those at which workers noted that they stopped."""
    suspects = (yield from _allowed(_suspects(), "suspects", hidden)) or {}
    checked = []
    for ledger in states:
        if ledger.ledger_id is not None and ledger.position:
            offsets = [place.position for place in (*(ledger.projections or ()), *(ledger.subscriptions or ()))]
            offsets += [ledger.stream.position] if ledger.stream is not None else []
            positions = {offset + 1 for offset in offsets} | suspects.get(ledger.ledger_id, set())
            plan = _failing(ledger, sorted(each for each in positions if each <= ledger.position))
            ledger = ledger._replace(stopped=(yield from _allowed(plan, "stopped", hidden)))  # noqa: PLW2901
        checked.append(ledger)
    return checked


def _outboxes() -> Plan[dict[int, Outbox]]:
    rows: list[Row] = yield Query(SQL["outbox"])
    return {
        ledger_id: Outbox(waiting, round(max(0.0, seconds or 0.0), 3), rejected)
        for ledger_id, waiting, seconds, rejected in rows
    }


def _refusals() -> Plan[dict[int, list[Refusal]]]:
    refusals: dict[int, list[Refusal]] = {}
    for ledger_id, *values in (yield Query(quarantine.SQL["refusals"])):
        refusals.setdefault(ledger_id, []).append(Refusal(*values))
    return refusals


def _suspects() -> Plan[dict[int, set[int]]]:
    suspects: dict[int, set[int]] = {}
    for ledger_id, position in (yield Query(quarantine.SQL["suspects"])):
        suspects.setdefault(ledger_id, set()).add(position)
    return suspects


def _failing(ledger: LedgerState, positions: Sequence[int]) -> Plan[tuple[Stopped, ...]]:
    bad = []
    for position in positions:
        found = yield from quarantine.look(LedgerRef(ledger.ledger_id or 0, ledger.name), position)
        if found.findings and found.mark is None:
            bad.append(
                Stopped(
                    position,
                    "; ".join(f"{each.kind}: {each.detail}" for each in found.findings),
                    found.damage is not None,
                )
            )
    return tuple(bad)


def _rows(statement: str) -> Plan[list[Row]]:
    rows: list[Row] = yield Query(SQL[statement])
    return rows


def _places(state: LedgerState, rows: list[Row]) -> Plan[tuple[Place, ...]]:
    end = state.position or 0
    places = []
    for ledger_id, name, position, *more in rows:
        if ledger_id == state.ledger_id:
            lag = yield from _lag(ledger_id, position, end)
            place = Place(name, position, lag, position > end)
            places.append(_with_projection(place, *more) if more else place)
    return tuple(places)


def _with_projection(place: Place, version: int, building: bool, abandoned: bool, *more: Any) -> Place:
    *failure, skipped = more
    blocked = Blocked(*failure) if failure[0] is not None else None
    return place._replace(version=version, rebuilding=building, abandoned=abandoned, blocked=blocked, skipped=skipped)


def _lag(ledger_id: int, offset: int, end: int) -> Plan[Lag]:
    if offset >= end:
        return Lag(0, 0.0)
    rows: list[Row] = (yield from _allowed(_first_behind(ledger_id, offset + 1), "lag_seconds", [])) or []
    return Lag(end - offset, round(max(0.0, rows[0][0]), 3) if rows else None)


def _first_behind(ledger_id: int, position: int) -> Plan[list[Row]]:
    rows: list[Row] = yield Query(SQL["waiting"], (ledger_id, position))
    return rows


def _stuck() -> Plan[dict[int, Holder]]:
    """By ledger_id, the old transactions that held a tail lock in two samples."""
    first = {(row[0], row[1]) for row in (yield Query(SQL["holders"])) if row[7] is None or row[7] > STUCK}
    if not first:
        return {}
    yield Wait(SECOND_LOOK)
    return {row[0]: _holder(row) for row in (yield Query(SQL["holders"])) if (row[0], row[1]) in first}


def _holder(row: Row) -> Holder:
    _, _, pid, user, application, client, since, seconds, state, query, prepared, waiting = row
    seen = state is not None and query
    last_ran = without_literals(query) if seen else None
    seconds = None if seconds is None else round(max(0.0, seconds), 3)
    return Holder(pid, prepared, user, application or None, client, since, seconds, state, last_ran, waiting)


def _unprotected(newer: Sequence[str]) -> Plan[tuple[str, ...]]:
    """The details of `unprotected` findings, as `verify` reports them."""
    yield SqlScript(SCAN["begin"])
    findings = yield from protections.check(newer)
    yield Query("rollback")
    return tuple(finding.detail for finding in findings)


def _allowed(plan: Plan[T], what: str, hidden: list[str]) -> Plan[T | None]:
    """The plan's result; None if the database user lacks the privilege, and then `what` is added to `hidden`."""
    try:
        return (yield from plan)
    except Refused as refused:
        if refused.sqlstate != _DENIED:
            raise
        hidden.append(what)
        return None


# ------------------------------------------------------------------------------------------------------------- Redis


def _with_streams(
    connector: Connector, client: Redis, ledgers: list[LedgerState], names: Collection[str] | None, postgres: str
) -> tuple[str, list[LedgerState]]:
    """The state of Redis, and the ledgers with their streams. If Postgres is unreachable: the ledgers in Redis."""
    redis = OK
    states: dict[str, StreamState] = {}
    try:
        if not ledgers and postgres != OK:
            ledgers = [LedgerState(name) for name in sorted(names or connector.run(_stream_names(), client))]
        for index, ledger in enumerate(ledgers):
            try:
                states[ledger.name] = connector.run(commands.state(ledger.name), client)
                ledgers[index] = connector.run(_with_dead_letters(ledger), client)
            except StreamUnusable as error:
                ledgers[index] = ledger._replace(unusable=str(error))
    except LedgerError as error:
        redis = str(error)
    for index, ledger in enumerate(ledgers):
        if ledger.name in states:
            place = _from_redis(states[ledger.name])
            if ledger.ledger_id is not None:
                with suppress(LedgerError):  # Postgres became unreachable, or refuses
                    place = connector.run(_compared(ledger, states[ledger.name]))
            ledgers[index] = ledger._replace(stream=place)
    return redis, ledgers


def _with_dead_letters(ledger: LedgerState) -> Plan[LedgerState]:
    groups = []
    for group in ledger.subscriptions or ():
        count = yield Command(("HLEN", wire.group_keys(ledger.name, group.name).parked))
        groups.append(group._replace(dead_letters=count))
    return ledger if ledger.subscriptions is None else ledger._replace(subscriptions=tuple(groups))


def _stream_names() -> Plan[set[str]]:
    prefix, suffix = (part.encode() for part in wire.key("\n").split("\n"))
    names, cursor = set(), b"0"
    while True:
        cursor, keys = yield Command(("SCAN", cursor, "MATCH", wire.key("*"), "COUNT", 1000))
        candidates = (key.removeprefix(prefix).removesuffix(suffix).decode(errors="replace") for key in keys)
        names |= {name for name in candidates if LEDGER_NAME.fullmatch(name)}
        if cursor in (b"0", 0):
            return names


def _from_redis(state: StreamState) -> StreamPlace:
    first = state.first.position if state.first is not None else None
    return StreamPlace(state.last.epoch, state.last.position, first, None, None)


def _compared(ledger: LedgerState, state: StreamState) -> Plan[StreamPlace]:
    """The stream's state, compared with the ledger. A stream of an older epoch counts as empty."""
    ledger_id = ledger.ledger_id or 0
    epoch, end = ledger.epoch or 1, ledger.position or 0
    if state.last > StreamId(epoch, end):  # what was published since the tail was read is no divergence
        [(_, epoch, end)] = yield Query(STORE["tails"], ([ledger_id],))
    diverged: bool | None = state.last != NO_ID and state.last > StreamId(epoch, end)
    if state.newest is not None and state.last.epoch == epoch and not diverged:
        ref = LedgerRef(ledger_id, ledger.name)
        hash_ = wire.raw_hash(state.newest_hash)
        chained = yield from _allowed(quarantine.is_chained(ref, state.newest.position, hash_), "hash", [])
        diverged = None if chained is None else not chained
    offset = state.last.position if state.last.epoch == epoch else 0
    lag = yield from _lag(ledger_id, min(offset, end), end)
    return _from_redis(state)._replace(position=offset, lag=lag, diverged=diverged)
