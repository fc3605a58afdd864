"""status: tail, stream, lag and problems of every ledger."""

from __future__ import annotations

from typing import Any

import click

from ledger.cli.app import OK, UNREACHABLE, Command
from ledger.cli.connect import settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import counted, line, seconds_text, short_time, time_text, write_json
from ledger.cli.text import one_line, redacted
from ledger.drivers.pools import Connector
from ledger.format.native import CORE
from ledger.ops.status import look
from ledger.ops.status_types import NOT_SET, Blocked, Holder, Lag, LedgerState, Overview, Place, StreamPlace, Verified
from ledger.ops.status_types import OK as ANSWERS

_REBUILD = "Rebuild it with 'auditledger replay'"
_NEW_EPOCH = "Resumes at the current tail after 'auditledger relay --new-epoch'"
"""What to do about an offset that is ahead of the ledger."""


@click.command("status", cls=Command)
@pass_shared
def status_command(shared: Shared) -> int:
    """Show tail, stream, lag and last verification for every ledger, or for --ledger.

    Also shows blocked projections, entries that fail verification, logs that are not signed, transactions that hold a
    tail lock, and missing protections. Exit code 3 if Postgres or Redis is unreachable.
    """
    connector = Connector(settings_of(shared))
    try:
        overview = look(connector, shared.names())
    finally:
        connector.close()
    if shared.json:
        write_json(_object(overview))
    else:
        _print(overview)
    return UNREACHABLE if overview.unreachable else OK


def server_text(text: str) -> str:
    """`ok`, `not set`, or why a server is unreachable, fit to be shown."""
    return redacted(one_line(text))


# -------------------------------------------------------------------------------------------------------------- JSON


def _object(overview: Overview) -> dict[str, Any]:
    """The JSON. null is unknown: a server is unreachable, or the database user may not see it (named in `hidden`)."""
    return {
        "ledgers": [_ledger_object(ledger) for ledger in overview.ledgers],
        "postgres": server_text(overview.postgres),
        "redis": server_text(overview.redis),
        "unprotected": overview.unprotected,
        "hidden": overview.hidden,
        "core": CORE,
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
        "outbox": None if ledger.outbox is None else ledger.outbox._asdict(),
        "stream": None if ledger.stream is None else _stream_object(ledger.stream),
        "stream_unusable": None if ledger.unusable is None else server_text(ledger.unusable),
        "projections": None if ledger.projections is None else [
            {"name": view.name, "version": view.version, "rebuilding": view.rebuilding, "abandoned": view.abandoned}
            | _place_object(view)
            | {"standstill": _blocked_object(view.blocked), "skipped": view.skipped}
            for view in ledger.projections
        ],
        "subscriptions": None if ledger.subscriptions is None else [
            {"name": group.name} | _place_object(group) | {"parked": group.dead_letters}
            for group in ledger.subscriptions
        ],
        "verified": None if ledger.verified is None else _verified_object(ledger.verified),
    }  # fmt: skip


def holder_object(holder: Holder) -> dict[str, Any]:
    return holder._asdict() | {"since": None if holder.since is None else time_text(holder.since)}


def _stream_object(stream: StreamPlace) -> dict[str, Any]:
    place = {"epoch": stream.epoch, "position": stream.position, "first": stream.first, "diverged": stream.diverged}
    return place | _lag_object(stream.lag)


def _place_object(place: Place) -> dict[str, Any]:
    return {"position": place.position, "ahead": place.ahead} | _lag_object(place.lag)


def _blocked_object(blocked: Blocked | None) -> dict[str, Any] | None:
    return None if blocked is None else blocked._asdict() | {"since": time_text(blocked.since)}


def _lag_object(lag: Lag | None) -> dict[str, Any]:
    return {"lag": None, "lag_seconds": None} if lag is None else {"lag": lag.entries, "lag_seconds": lag.seconds}


def _verified_object(verified: Verified) -> dict[str, Any]:
    return {
        "verified_at": time_text(verified.verified_at), "ok": verified.findings == 0, "first": verified.first,
        "last": verified.last, "head": verified.head.hex(), "findings": verified.findings,
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------- for people


def _print(overview: Overview) -> None:
    for ledger in overview.ledgers:
        _print_ledger(ledger, overview)
    for detail in overview.unprotected or ():
        line("UNPROTECTED:", detail)
    if overview.hidden:
        line(f"Not shown, because this database user may not see it: {', '.join(overview.hidden)}")
    print_unreachable(overview.postgres, overview.redis)


def print_unreachable(postgres: str, redis: str) -> None:
    """A line for each server that is unreachable."""
    if postgres != ANSWERS:
        line(_unreachable("Postgres", postgres))
    if redis == NOT_SET:
        line("Redis: not set; relay and run need it")
    elif redis != ANSWERS:
        line(_unreachable("Redis", redis))


def _unreachable(server: str, why: str) -> str:
    return f"{server} is unreachable: {server_text(why).removeprefix(f'{server} cannot be reached: ')}"


def _print_ledger(ledger: LedgerState, overview: Overview) -> None:
    if ledger.ledger_id is None:
        line(f"Ledger {ledger.name}: position unknown, Postgres is unreachable")
    elif ledger.position is None:
        line(f"Ledger {ledger.name} has no tail row: run 'auditledger --ledger {ledger.name} verify'")
        return
    else:
        moment = f"; last recorded {short_time(ledger.recorded_at)}" if ledger.position and ledger.recorded_at else ""
        line(f"Ledger {ledger.name}: position {ledger.position}{moment}")
    rows = [("  stream", *_stream_row(ledger, overview.redis))]
    if ledger.outbox is not None and ledger.outbox.waiting:
        rows.insert(0, ("  outbox", f"{ledger.outbox.waiting:,} waiting", f"for {seconds_text(ledger.outbox.seconds)}"))
    if ledger.ledger_id is not None:
        for view in ledger.projections or ():
            name = f"  {view.name}" + (
                " (abandoned rebuild)" if view.abandoned else " (being rebuilt)" if view.rebuilding else ""
            )
            rows.append((name, *_place_row(view, _REBUILD)))
        groups = ledger.subscriptions or ()
        rows += [(f"  group {group.name}", *_place_row(group, _NEW_EPOCH)) for group in groups]
        if not ledger.projections:
            rows.append(("  projections", "not shown" if ledger.projections is None else "none built yet", ""))
        hidden = "verified" in overview.hidden
        rows.append(("  verified", *_verified_row(ledger.verified, ledger.position or 0, hidden=hidden)))
    width = max(len(name) for name, *_ in rows), max(len(state) for _, state, *_ in rows)
    for name, state, more in rows:
        line(name.ljust(width[0]), state.ljust(width[1]), more)
    _print_problems(ledger)


def _print_problems(ledger: LedgerState) -> None:
    for view in ledger.projections or ():
        if view.blocked is not None:
            line(f"  {view.name} BLOCKED:", blocked_text(view.blocked))
    if ledger.outbox is not None and ledger.outbox.rejected:
        rejected = counted(ledger.outbox.rejected, "recorded event")
        line(f"  {rejected} SET ASIDE, cannot be appended:", "'select * from ledger.rejected' shows each and why")
    for bad in ledger.stopped or ():
        line(f"  ENTRY {bad.position} FAILS VERIFICATION, workers stop before it:", bad.found)
        if bad.damaged:
            remedy = "they resume after Postgres' files are restored from a backup or a standby"
        else:
            remedy = f"'auditledger --ledger {ledger.name} quarantine {bad.position}' lets them pass it, on the record"
        line("   ", remedy)
    for refusal in ledger.refusals or ():
        line(f"  {refusal.origin} IS NOT SIGNED, since {short_time(refusal.since)}:", refusal.problem)
    if ledger.holder is not None:
        line("  TAIL HELD, appends wait:", holder_text(ledger.holder))


def blocked_text(blocked: Blocked) -> str:
    """The entry, since when, and the error, on one line."""
    attempts = f", {counted(blocked.tries, 'attempt')}" if blocked.tries else ""
    since = f"since {short_time(blocked.since)} ({seconds_text(blocked.seconds)}){attempts}"
    return f"at entry {blocked.position}, {since}: {blocked.error}"


def holder_text(holder: Holder) -> str:
    """Who holds a tail lock, since when, and the last statement, on one line."""
    who = f"prepared transaction {holder.prepared!r}" if holder.pid is None else f"pid {holder.pid}"
    names = [
        f"user {holder.user}" if holder.user else "",
        f"application {holder.application}" if holder.application else "",
    ]
    parts = [", ".join([who, *filter(None, names), *([f"from {holder.client}"] if holder.client else [])])]
    if holder.since is not None and holder.seconds is not None:
        parts.append(f"since {short_time(holder.since)} ({seconds_text(holder.seconds)})")
    else:
        parts.append("age visible only to its user, superusers and pg_read_all_stats")
    parts.append(f"{holder.waiting} waiting")
    if holder.state:
        parts.append(holder.state)
    if holder.last_ran:
        parts.append(f"last ran: {holder.last_ran}")
    return "; ".join(parts)


def _stream_row(ledger: LedgerState, redis: str) -> tuple[str, str]:
    stream = ledger.stream
    if ledger.unusable is not None:
        return ("unknown", f"UNUSABLE: {server_text(ledger.unusable)}")
    if stream is None:
        return ("unknown", "Redis is not set" if redis == NOT_SET else "Redis is unreachable")
    if stream.diverged:
        problem = "DIVERGED: it holds entries that the ledger does not; 'auditledger relay' says more"
        return (f"at {stream.epoch}-{stream.position}", problem)
    if stream.lag is None:
        return (f"at {stream.epoch}-{stream.position}", "lag unknown")
    return (f"at {stream.position}", _behind(stream.lag))


def _place_row(place: Place, remedy: str) -> tuple[str, str]:
    if place.ahead:
        return (f"at {place.position}", f"AHEAD of the ledger (restored from a backup?). {remedy}")
    skipped = f"; {counted(place.skipped, 'entry')} skipped" if place.skipped else ""
    dead = f"; {counted(place.dead_letters, 'dead letter')}" if place.dead_letters else ""
    return (f"at {place.position}", _behind(place.lag) + skipped + dead)


def _verified_row(verified: Verified | None, end: int, *, hidden: bool) -> tuple[str, str]:
    if verified is None:
        return ("not shown" if hidden else "never", "")
    verdict = "OK" if verified.findings == 0 else f"{verified.findings} FINDINGS"
    since = f"; {end - verified.last} entries since" if end > verified.last else ""
    return (f"{verdict}, {verified.first} to {verified.last}{since}", short_time(verified.verified_at))


def _behind(lag: Lag) -> str:
    if not lag.entries:
        return "up to date"
    return f"{lag.entries:,} behind, " + ("age unknown" if lag.seconds is None else seconds_text(lag.seconds))
