"""Doctor's checks of the ledgers: protections, tail, entries, signing, streams, projections, groups, verification."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ledger.ops.doctor_servers import WAITS_FOR_STANDBY
from ledger.ops.doctor_types import Check
from ledger.ops.status_types import Holder, Lag, LedgerState, Overview, Place

LATE = 60.0
"""Seconds of lag from which on there is a warning."""
VERIFY_EVERY = 7 * 86_400.0
"""Seconds without a verification after which there is a warning."""
_RESTORED = "ahead of the ledger: was the database restored from a backup?"


def check_protections(overview: Overview) -> list[Check]:
    """One check for each protection that is not as the migrations make it."""
    if overview.unprotected is None:
        return []
    advice = (
        "find out who changed it and when, run 'auditledger verify' on every ledger, and restore it as the migration "
        "in schema/ makes it"
    )
    wrong = [Check("protections", "danger", detail, advice) for detail in overview.unprotected]
    return wrong or [Check("protections", "ok", "all in place")]


def check_ledger(ledger: LedgerState) -> Iterator[Check]:
    """The checks of one ledger. A ledger that is known from Redis alone has none."""
    if ledger.position is None:
        if ledger.ledger_id is not None:
            yield Check(f"{ledger.name}: tail", "danger", "missing", f"run 'auditledger --ledger {ledger.name} verify'")
        return
    if ledger.holder is None:
        yield Check(f"{ledger.name}: tail", "ok", f"at {ledger.position}")
    else:
        yield Check(f"{ledger.name}: tail", "warning", *_held(ledger.holder))
    yield from _outbox(ledger)
    yield from _entries(ledger)
    yield from _signing(ledger)
    yield from _stream(ledger)
    for view in ledger.projections or ():
        yield _projection(ledger.name, view)
    for group in ledger.subscriptions or ():
        yield from _group(ledger.name, group)


def _outbox(ledger: LedgerState) -> Iterator[Check]:
    if ledger.outbox is None:
        return
    name = f"{ledger.name}: outbox"
    if ledger.outbox.rejected:
        count = ledger.outbox.rejected
        text = f"{count:,} recorded {'event' if count == 1 else 'events'} cannot be appended, set aside"
        advice = (
            "'select * from ledger.rejected' shows each and why; record it anew as it should be, then delete the row"
        )
        yield Check(name, "danger", text, advice)
    if not ledger.outbox.waiting:
        yield Check(name, "ok", "empty")
        return
    text = f"{ledger.outbox.waiting:,} events wait to be sealed, for {ledger.outbox.seconds:.0f} s"
    if ledger.outbox.seconds > LATE:
        yield Check(name, "warning", text, "check that 'auditledger run' or 'seal' runs, and read its log")
    else:
        yield Check(name, "ok", text)


def _entries(ledger: LedgerState) -> Iterator[Check]:
    for bad in ledger.stopped or ():
        command = f"'auditledger --ledger {ledger.name}"
        advice = (
            f"{command} verify --from {bad.position}' shows the findings; find out who wrote it, then restore the "
            f"entry, or let workers pass it, on the record: "
            f"{command} quarantine {bad.position} --actor WHO --reason WHY'"
        )
        if bad.damaged:
            advice = "restore Postgres' damaged files from a backup or a standby; then workers resume"
        text = f"entry {bad.position} fails verification, workers stop before it: {bad.found}"
        yield Check(f"{ledger.name}: entries", "danger", text, advice)


def _signing(ledger: LedgerState) -> Iterator[Check]:
    for refusal in ledger.refusals or ():
        advice = (
            f"'auditledger --ledger {ledger.name} verify --checkpoint FILE' says more; docs/operations.md, 'Signing "
            "again', explains each; the check is gone once it signs again"
        )
        text = f"{refusal.origin} is not signed, since {refusal.since:%Y-%m-%d %H:%M:%SZ}: {refusal.problem}"
        yield Check(f"{ledger.name}: signing", "danger", text, advice)


def _stream(ledger: LedgerState) -> Iterator[Check]:
    name = f"{ledger.name}: stream"
    if ledger.unusable is not None:
        advice = "fix it in Redis; until then readers use Postgres, and the relay of this ledger waits"
        yield Check(name, "danger", ledger.unusable, advice)
    if ledger.stream is not None:
        if ledger.stream.diverged:
            command = f"'auditledger --ledger {ledger.name}"
            advice = (
                "if another database publishes to this Redis, give each its own; if this one was rolled back, "
                f"{command} salvage FILE' keeps them; then {command} relay --new-epoch' fills the stream again"
            )
            yield Check(name, "danger", "diverged: it holds entries that the ledger does not", advice)
        elif ledger.stream.lag is not None:
            yield _behind(name, ledger.stream.lag, "'auditledger relay' or 'run'")


def _projection(ledger: str, view: Place) -> Check:
    name = f"{ledger}: projection {view.name}"
    if view.ahead:
        return Check(name, "danger", _RESTORED, f"rebuild it: 'auditledger replay {view.name}'")
    if view.blocked is not None:
        advice = (
            "'LEDGER_DEBUG=1 auditledger project --once' shows the error; fix the projection, or leave the entry out: "
            f"'auditledger --ledger {ledger} skip {view.name} {view.blocked.position}'"
        )
        return Check(name, "warning", f"blocked at entry {view.blocked.position}: {view.blocked.error}", advice)
    if view.abandoned:
        text = "was killed, and left copies of bodies that erasures do not reach"
        advice = f"'auditledger project --once', or 'replay {view.name}', drops them"
        return Check(f"{name} (rebuild)", "warning", text, advice)
    if view.rebuilding:
        return Check(f"{name} (rebuild)", "ok", f"at {view.position}")
    return _behind(name, view.lag, "'auditledger project' or 'run'")


def _group(ledger: str, group: Place) -> Iterator[Check]:
    name = f"{ledger}: group {group.name}"
    if group.ahead:
        yield Check(name, "danger", _RESTORED, "it resumes at the current tail after 'auditledger relay --new-epoch'")
        return
    if group.dead_letters:
        advice = f"'auditledger --ledger {ledger} parked {group.name}' lists them and delivers them again"
        yield Check(name, "warning", f"{group.dead_letters} dead-lettered", advice)
    yield _behind(name, group.lag, "its subscriber")


def _held(holder: Holder) -> tuple[str, str]:
    """Who holds the tail lock, and what to do: Check's `found` and `advice`."""
    who = f"pid {holder.pid}" if holder.pid is not None else holder.prepared
    if "synchronous standby" in (holder.state or ""):
        return f"held by {who}, which waits for a synchronous standby: appends wait", WAITS_FOR_STANDBY
    end = f"select pg_terminate_backend({holder.pid})"
    if holder.pid is None:
        end = f"rollback prepared '{holder.prepared}'"
    advice = f"'auditledger status' says more; to end it: {end}; idle_in_transaction_session_timeout prevents it"
    return f"held by {who}: appends wait", advice


def _behind(name: str, lag: Lag, worker: str) -> Check:
    """A check of lag. worker: the process that keeps it short."""
    if not lag.entries:
        return Check(name, "ok", "up to date")
    text = f"{lag.entries:,} behind"
    if lag.seconds is None:
        return Check(name, "unknown", f"{text}, for an unknown time")
    text += f", for {lag.seconds:.0f} s"
    if lag.seconds <= LATE:
        return Check(name, "ok", text)
    return Check(name, "warning", text, f"check that {worker} runs, and read its log")


def check_verified(ledger: LedgerState) -> Iterator[Check]:
    """The age and the result of the last verification."""
    name, advice = f"{ledger.name}: verified", f"run 'auditledger --ledger {ledger.name} verify', and schedule it"
    if ledger.verified is None:
        if ledger.position:
            yield Check(name, "warning", "never", advice)
        return
    age = time.time() - ledger.verified.verified_at.timestamp()
    text = f"{ledger.verified.verified_at:%Y-%m-%d %H:%M:%SZ}, up to {ledger.verified.last}"
    if ledger.verified.findings:
        yield Check(name, "danger", f"{text}: {ledger.verified.findings} findings", f"{advice}; it lists each")
    elif age > VERIFY_EVERY:
        yield Check(name, "warning", text, advice)
    else:
        yield Check(name, "ok", text)
