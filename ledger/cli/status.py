"""status: where everything stands, and what is not known because a server is away."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from ledger import protections, stream
from ledger.cli.app import Command
from ledger.cli.connect import settings_of
from ledger.cli.output import line, seconds_text, short_time, time_text, write_json
from ledger.cli.shared import Shared, pass_shared
from ledger.cli.text import one_line, redacted
from ledger.effects import Plan, Query, SqlScript, sql
from ledger.errors import LedgerError, UnknownLedger
from ledger.migrate import check_schema, load
from ledger.servers import Servers
from ledger.stream import NOTHING

SQL = sql("status")
VERIFY = sql("verify")


@click.command("status", cls=Command)
@pass_shared
def status_command(shared: Shared) -> None:
    """Of each ledger, or the one named with --ledger: tail, stream, lag of every projection, last verification.

    And what is unprotected: triggers that are off, privileges wider than 'auditledger grant' gives.
    """
    settings = settings_of(shared)
    servers = Servers(settings)
    try:
        servers.run(check_schema(load()))
        ledgers = servers.run(_standing(shared.names()))
        unprotected = servers.run(_unprotected())
        redis = "not set" if settings.redis_url is None else "ok"
        for ledger in ledgers:
            if redis == "ok":
                try:
                    ledger["stream"] = servers.run(_stream(ledger))
                except LedgerError as error:
                    redis = redacted(one_line(str(error)))
    finally:
        servers.close()
    if shared.json:
        for ledger in ledgers:
            del ledger["ledger_id"]
        write_json({"ledgers": ledgers, "redis": redis, "unprotected": unprotected})
    else:
        _print(ledgers, redis)
        for detail in unprotected:
            line("UNPROTECTED:", detail)


def _standing(names: list[str] | None) -> Plan[list[dict[str, Any]]]:
    """What Postgres knows. Lags are in entries, and in seconds since the first of those was recorded."""
    rows = yield Query(SQL["ledgers"])
    found = [row for row in rows if names is None or row[1] in names]
    if names is not None and not found:
        raise UnknownLedger(f"there is no ledger {names[0]!r} in this database")
    projections = yield Query(SQL["projections"])
    subscriptions = yield Query(SQL["subscriptions"])
    verified = {row[0]: row[1:] for row in (yield Query(SQL["verifications"]))}
    ledgers = []
    for ledger_id, name, epoch, position, tail_hash, recorded_at in found:
        views = []
        for _, view, version, building, at in (row for row in projections if row[0] == ledger_id):
            lag = yield from _lag(ledger_id, at, position or 0)
            views.append({"name": view, "version": version, "rebuilding": building, "position": at} | lag)
        groups = []
        for _, group, at in (row for row in subscriptions if row[0] == ledger_id):
            lag = yield from _lag(ledger_id, at, position or 0)
            groups.append({"name": group, "position": at} | lag)
        ledgers.append({
            "ledger_id": ledger_id, "ledger": name, "position": position,
            "hash": None if tail_hash is None else tail_hash.hex(),
            "recorded_at": time_text(recorded_at) if position else None, "epoch": epoch,
            "stream": None, "projections": views, "subscriptions": groups,
            "verified": _verified(verified.get(ledger_id)),
        })  # fmt: skip
    return ledgers


def _unprotected() -> Plan[list[str]]:
    """What is not as the schema has it: triggers, functions, and who may do more than it grants. As verify says it."""
    yield SqlScript(VERIFY["begin"])
    findings = yield from protections.check(load())
    yield Query("rollback")
    return [finding.detail for finding in findings]


def _lag(ledger_id: int, at: int, end: int) -> Plan[dict[str, Any]]:
    rows = (yield Query(SQL["waiting"], (ledger_id, at + 1))) if at < end else []
    return {"lag": end - at, "lag_seconds": round(max(0.0, rows[0][0]), 3) if rows else 0.0}


def _stream(ledger: dict[str, Any]) -> Plan[dict[str, Any]]:
    """What Redis knows, compared with the tail. A stream of an older epoch holds nothing that counts."""
    state = yield from stream.state(ledger["ledger"])
    epoch, end = ledger["epoch"] or 1, ledger["position"] or 0
    at = state.last.position if state.last.epoch == epoch else 0
    lag = yield from _lag(ledger["ledger_id"], min(at, end), end)
    ahead = state.last != NOTHING and state.last > (epoch, end)
    first = state.first.position if state.first is not None else None
    return {"epoch": state.last.epoch, "position": at, "first": first, "diverged": ahead} | lag


def _verified(row: tuple[datetime, int, int, bytes, int] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    verified_at, first, last, head, findings = row
    return {
        "verified_at": time_text(verified_at), "ok": findings == 0, "first": first, "last": last, "head": head.hex(),
        "findings": findings,
    }  # fmt: skip


def _print(ledgers: list[dict[str, Any]], redis: str) -> None:
    for ledger in ledgers:
        if ledger["position"] is None:
            line(f"Ledger {ledger['ledger']} has no tail: verify it")
            continue
        moment = f"; last recorded {_moment(ledger['recorded_at'])}" if ledger["position"] else ""
        line(f"Ledger {ledger['ledger']}: position {ledger['position']}{moment}")
        rows = [("  stream", *_stream_row(ledger["stream"], redis))]
        for view in ledger["projections"]:
            name = f"  {view['name']}" + (" (being rebuilt)" if view["rebuilding"] else "")
            rows.append((name, f"at {view['position']}", _behind(view)))
        rows += [
            (f"  group {group['name']}", f"at {group['position']}", _behind(group)) for group in ledger["subscriptions"]
        ]
        if not ledger["projections"]:
            rows.append(("  projections", "none built yet", ""))
        rows.append(("  verified", *_verified_row(ledger["verified"], ledger["position"])))
        width = max(len(name) for name, *_ in rows), max(len(at) for _, at, *_ in rows)
        for name, at, more in rows:
            line(name.ljust(width[0]), at.ljust(width[1]), more)
    if redis != "ok":
        line("Redis: " + ("not set; relay and run need it" if redis == "not set" else redis))


def _stream_row(found: dict[str, Any] | None, redis: str) -> tuple[str, str]:
    if found is None:
        return ("unknown", "Redis is not set" if redis == "not set" else "Redis is away")
    if found["diverged"]:
        return (
            f"at {found['epoch']}-{found['position']}",
            "DIVERGED: ahead of the ledger; 'auditledger relay' says more",
        )
    return (f"at {found['position']}", _behind(found))


def _verified_row(found: dict[str, Any] | None, end: int) -> tuple[str, str]:
    if found is None:
        return ("never", "")
    verdict = "OK" if found["ok"] else f"{found['findings']} FINDINGS"
    since = f"; {end - found['last']} entries since" if end > found["last"] else ""
    return (f"{verdict}, {found['first']} to {found['last']}{since}", _moment(found["verified_at"]))


def _behind(lag: dict[str, Any]) -> str:
    return f"{lag['lag']:,} behind, {seconds_text(lag['lag_seconds'])}" if lag["lag"] else "up to date"


def _moment(text: str) -> str:
    return short_time(datetime.fromisoformat(text))
