"""status: where everything stands, and what is not known because a server is unreachable."""

from __future__ import annotations

from typing import Any

import click

from ledger.cli.app import OK, UNREACHABLE, Command
from ledger.cli.connect import settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, seconds_text, short_time, time_text, write_json
from ledger.cli.text import one_line, redacted
from ledger.drivers.pools import Connector
from ledger.ops.status import look
from ledger.ops.status_types import (
    NOT_SET,
    Holder,
    Lag,
    LedgerState,
    Overview,
    Place,
    Standstill,
    StreamPlace,
    Verified,
)
from ledger.ops.status_types import OK as WELL

_REPLAY, _NEW_EPOCH = "'auditledger replay'", "it goes on at the ledger's end in a new epoch"
"""What to do where something has seen more than the ledger has."""


@click.command("status", cls=Command)
@pass_shared
def status_command(shared: Shared) -> int:
    """Of each ledger, or the one named with --ledger: tail, stream, lag of every projection, last verification.

    And which projection is blocked and why, which entry does not hold, so that workers stop before it, which log its
    signer refuses to sign, who holds a tail for long, and what is unprotected. Where Postgres or Redis is unreachable
    it says so, shows what the other knows, and exits 3.
    """
    connector = Connector(settings_of(shared))
    try:
        found = look(connector, shared.names())
    finally:
        connector.close()
    if shared.json:
        write_json(_object(found))
    else:
        _print(found)
    return UNREACHABLE if found.away else OK


def server_text(text: str) -> str:
    """`ok`, `not set`, or why a server is unreachable, fit to be shown."""
    return redacted(one_line(text))


# -------------------------------------------------------------------------------------------------------------- JSON


def _object(found: Overview) -> dict[str, Any]:
    """null: not known, because a server is unreachable or this database user may not see it (`hidden` names that)."""
    return {
        "ledgers": [_ledger_object(ledger) for ledger in found.ledgers],
        "postgres": server_text(found.postgres),
        "redis": server_text(found.redis),
        "unprotected": found.unprotected,
        "hidden": found.hidden,
    }


def _ledger_object(ledger: LedgerState) -> dict[str, Any]:
    return {
        "ledger": ledger.name, "position": ledger.position,
        "hash": None if ledger.hash is None else ledger.hash.hex(),
        "recorded_at": time_text(ledger.recorded_at) if ledger.position and ledger.recorded_at else None,
        "epoch": ledger.epoch,
        "stopped": None if ledger.stopped is None else [bad._asdict() for bad in ledger.stopped],
        "signing_refused": None if ledger.refusals is None else [
            refusal._asdict() | {"since": time_text(refusal.since)} for refusal in ledger.refusals
        ],
        "held_by": None if ledger.holder is None else holder_object(ledger.holder),
        "stream": None if ledger.stream is None else _stream_object(ledger.stream),
        "stream_unusable": None if ledger.unusable is None else server_text(ledger.unusable),
        "projections": None if ledger.projections is None else [
            {"name": view.name, "version": view.version, "rebuilding": view.rebuilding, "abandoned": view.abandoned}
            | _place_object(view)
            | {"standstill": _standstill_object(view.standstill), "skipped": view.skipped}
            for view in ledger.projections
        ],
        "subscriptions": None if ledger.subscriptions is None else [
            {"name": group.name} | _place_object(group) | {"parked": group.parked} for group in ledger.subscriptions
        ],
        "verified": None if ledger.verified is None else _verified_object(ledger.verified),
    }  # fmt: skip


def holder_object(holder: Holder) -> dict[str, Any]:
    return holder._asdict() | {"since": None if holder.since is None else time_text(holder.since)}


def _stream_object(found: StreamPlace) -> dict[str, Any]:
    place = {"epoch": found.epoch, "position": found.position, "first": found.first, "diverged": found.diverged}
    return place | _lag_object(found.lag)


def _place_object(place: Place) -> dict[str, Any]:
    return {"position": place.position, "ahead": place.ahead} | _lag_object(place.lag)


def _standstill_object(found: Standstill | None) -> dict[str, Any] | None:
    return None if found is None else found._asdict() | {"since": time_text(found.since)}


def _lag_object(lag: Lag | None) -> dict[str, Any]:
    return {"lag": None, "lag_seconds": None} if lag is None else {"lag": lag.entries, "lag_seconds": lag.seconds}


def _verified_object(found: Verified) -> dict[str, Any]:
    return {
        "verified_at": time_text(found.verified_at), "ok": found.findings == 0, "first": found.first,
        "last": found.last, "head": found.head.hex(), "findings": found.findings,
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------- for people


def _print(found: Overview) -> None:
    for ledger in found.ledgers:
        _print_ledger(ledger, found)
    for detail in found.unprotected or ():
        line("UNPROTECTED:", detail)
    if found.hidden:
        line(f"Not shown, because this database user may not see it: {', '.join(found.hidden)}")
    print_away(found.postgres, found.redis)


def print_away(postgres: str, redis: str) -> None:
    """A line for each server that is unreachable."""
    if postgres != WELL:
        line("Postgres is unreachable:", server_text(postgres))
    if redis == NOT_SET:
        line("Redis: not set; relay and run need it")
    elif redis != WELL:
        line("Redis is unreachable:", server_text(redis))


def _print_ledger(ledger: LedgerState, found: Overview) -> None:
    if ledger.ledger_id is None:
        line(f"Ledger {ledger.name}: position unknown, Postgres is unreachable")
    elif ledger.position is None:
        line(f"Ledger {ledger.name} has no tail: verify it")
        return
    else:
        moment = f"; last recorded {short_time(ledger.recorded_at)}" if ledger.position and ledger.recorded_at else ""
        line(f"Ledger {ledger.name}: position {ledger.position}{moment}")
    rows = [("  stream", *_stream_row(ledger, found.redis))]
    if ledger.ledger_id is not None:
        for view in ledger.projections or ():
            name = f"  {view.name}" + (
                " (abandoned rebuild)" if view.abandoned else " (being rebuilt)" if view.rebuilding else ""
            )
            rows.append((name, *_place_row(view, _REPLAY)))
        groups = ledger.subscriptions or ()
        rows += [(f"  group {group.name}", *_place_row(group, _NEW_EPOCH)) for group in groups]
        if not ledger.projections:
            rows.append(("  projections", "not shown" if ledger.projections is None else "none built yet", ""))
        hidden = "verified" in found.hidden
        rows.append(("  verified", *_verified_row(ledger.verified, ledger.position or 0, hidden=hidden)))
    width = max(len(name) for name, *_ in rows), max(len(at) for _, at, *_ in rows)
    for name, at, more in rows:
        line(name.ljust(width[0]), at.ljust(width[1]), more)
    for view in ledger.projections or ():
        if view.standstill is not None:
            line(f"  {view.name} BLOCKED:", standstill_text(view.standstill))
    for bad in ledger.stopped or ():
        line(f"  ENTRY {bad.position} DOES NOT HOLD, workers stop before it:", bad.found)
        if bad.damaged:
            line("    they go on once Postgres' files are restored from a backup or a standby")
            continue
        line(
            f"    'auditledger --ledger {ledger.name} quarantine {bad.position}' lets them go on past it, on the record"
        )
    for refusal in ledger.refusals or ():
        line(f"  {refusal.origin} IS NOT SIGNED, since {short_time(refusal.since)}:", refusal.problem)
    if ledger.holder is not None:
        line("  TAIL HELD, appends wait:", holder_text(ledger.holder))


def standstill_text(found: Standstill) -> str:
    """Which entry could not be applied, since when and why, in one line."""
    tries = f", {counted(found.tries, 'try')}" if found.tries else ""
    since = f"since {short_time(found.since)} ({seconds_text(found.seconds)}){tries}"
    return f"at entry {found.position}, {since}: {found.error}"


def holder_text(holder: Holder) -> str:
    """Who holds a tail, since when, and what it last ran, in one line."""
    who = f"prepared transaction {holder.prepared!r}" if holder.pid is None else f"pid {holder.pid}"
    said = [
        f"user {holder.user}" if holder.user else "",
        f"application {holder.application}" if holder.application else "",
    ]
    parts = [", ".join([who, *filter(None, said), *([f"from {holder.client}"] if holder.client else [])])]
    if holder.since is not None and holder.seconds is not None:
        parts.append(f"since {short_time(holder.since)} ({seconds_text(holder.seconds)})")
    else:
        parts.append("since when may be seen by its user, superusers and pg_read_all_stats only")
    parts.append(f"{holder.waiting} waiting")
    if holder.state:
        parts.append(holder.state)
    if holder.last_ran:
        parts.append(f"last ran: {holder.last_ran}")
    return "; ".join(parts)


def _stream_row(ledger: LedgerState, redis: str) -> tuple[str, str]:
    found = ledger.stream
    if ledger.unusable is not None:
        return ("unknown", f"UNUSABLE: {server_text(ledger.unusable)}")
    if found is None:
        return ("unknown", "Redis is not set" if redis == NOT_SET else "Redis is unreachable")
    if found.diverged:
        return (f"at {found.epoch}-{found.position}", "DIVERGED: not the ledger's; 'auditledger relay' says more")
    if found.lag is None:
        return (f"at {found.epoch}-{found.position}", "how far behind is unknown")
    return (f"at {found.position}", _behind(found.lag))


def _place_row(place: Place, remedy: str) -> tuple[str, str]:
    if place.ahead:
        return (f"at {place.position}", f"AHEAD of the ledger, which was set back: {remedy}")
    skipped = f"; {counted(place.skipped, 'entry')} skipped" if place.skipped else ""
    parked = f"; {counted(place.parked, 'entry')} parked" if place.parked else ""
    return (f"at {place.position}", _behind(place.lag) + skipped + parked)


def _verified_row(found: Verified | None, end: int, *, hidden: bool) -> tuple[str, str]:
    if found is None:
        return ("not shown" if hidden else "never", "")
    verdict = "OK" if found.findings == 0 else f"{found.findings} FINDINGS"
    since = f"; {end - found.last} entries since" if end > found.last else ""
    return (f"{verdict}, {found.first} to {found.last}{since}", short_time(found.verified_at))


def _behind(lag: Lag) -> str:
    if not lag.entries:
        return "up to date"
    return f"{lag.entries:,} behind, " + ("since when is unknown" if lag.seconds is None else seconds_text(lag.seconds))
