"""relay, project, run: long-running, or with --once until caught up; and replay."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from ledger.capture.sealer import Sealer
from ledger.cli.app import Command
from ledger.cli.connect import ready
from ledger.cli.context import Shared, pass_shared
from ledger.cli.logs import log_format
from ledger.cli.options import checkpointers, metrics_port, signing_options
from ledger.cli.output import counted, counting, line, progress, write_json
from ledger.cli.params import Span
from ledger.cli.signals import interruptible, together, working
from ledger.cli.text import note
from ledger.drivers.pools import Connector
from ledger.errors import IntegrityError, LedgerError
from ledger.ops.metrics import serve_metrics
from ledger.projection.base import Projection, find_projections, view_positions
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.store.ledgers import ledger_ends
from ledger.stream import commands
from ledger.stream.relay import Relay, open_new_epoch


def _once(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all workers."""
    once = click.option("--once", is_flag=True, help="Work until caught up, then end.")
    return once(metrics_port(log_format(command)))


_skip_after = click.option(
    "--skip-after", type=click.IntRange(1), metavar="N",
    help="Skip an entry that a projection failed at N times, on the record; else it stays blocked there.",
)  # fmt: skip


@click.command("relay", cls=Command)
@_once
@click.option("--new-epoch", is_flag=True, help="Fill the stream again, after a restore or failover.")
@pass_shared
def relay_command(shared: Shared, once: bool, new_epoch: bool) -> None:
    """Publish entries to the Redis streams, in order and complete.

    For all ledgers, or the one named with --ledger. Any number of relays may run at once. A ledger's stream ends before
    an entry that fails verification, until the entry is quarantined.
    """
    with (
        working(once) as stop,
        ready(shared, redis=True) as connector,
        serve_metrics(connector.settings, shared.metrics, shared.names()),
    ):
        if new_epoch:
            _open_epoch(shared, connector)
        relay = Relay(connector, shared.names())
        if once:
            _report(shared, published=_publish(shared, connector, relay, stop))
            _raise_first(relay.stopped)
        else:
            _announce("Relaying", shared)
            relay.run(stop)


@click.command("project", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_once
@_skip_after
@pass_shared
def project_command(shared: Shared, names: tuple[str, ...], once: bool, skip_after: int | None) -> None:
    """Keep projections up to date: those named, else all that are installed.

    Name a projection of your own as module:Class. Works without Redis, from Postgres alone. A projection that cannot
    apply an entry is blocked there, which `status` shows, and is retried with exponential backoff, or with --once at
    the next call.
    """
    projections = find(names)
    with (
        working(once) as stop,
        ready(shared, redis=False) as connector,
        serve_metrics(connector.settings, shared.metrics, shared.names()),
        _projector(shared, connector, projections, stop, once, skip_after) as projector,
    ):
        if once:
            _report(shared, projected=_project(shared, connector, projections, projector, stop))
        else:
            _announce("Projecting", shared)
            projector.run(stop)


@click.command("seal", cls=Command)
@_once
@pass_shared
def seal_command(shared: Shared, once: bool) -> None:
    """Append what applications recorded in the outbox.

    For all ledgers, or the one named with --ledger. Any number of sealers may run at once; `run` is one. An event that
    cannot be appended is set aside, which `status` shows.
    """
    with (
        working(once) as stop,
        ready(shared, redis=False) as connector,
        serve_metrics(connector.settings, shared.metrics, shared.names()),
    ):
        sealer = Sealer(connector, shared.names())
        if once:
            with counting("Sealing", 0) as advance:
                sealed = sealer.seal(interruptible(advance, stop))
            _report(shared, sealed=sealed)
            _raise_first(sealer.stopped)
        else:
            _announce("Sealing", shared)
            sealer.run(stop)


@click.command("run", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_once
@_skip_after
@click.option("--checkpoint-every", "every", type=Span(), metavar="SPAN", help="Sign checkpoints too: 60s, 5m, 1h.")
@signing_options
@pass_shared
def run_command(
    shared: Shared,
    names: tuple[str, ...],
    once: bool,
    skip_after: int | None,
    every: float | None,
    keys: tuple[Path, ...],
    publish: tuple[str, ...],
    require: int | None,
    witnesses: tuple[str, ...],
    quorum: int | None,
) -> None:
    """Seal, relay and project in one process; with --checkpoint-every, sign checkpoints too.

    If any job fails, the process exits. Before an entry that fails verification, the jobs of that ledger stop and retry
    with exponential backoff; so does signing a ledger that does not continue its signed checkpoint. The other ledgers
    go on. The last part of a key's origin names the ledger that it signs. With --once, one checkpoint is signed at the
    end.
    """
    if every is None and (keys or publish or witnesses or require is not None or quorum is not None):
        raise click.UsageError(
            "--key, --publish, --require, --witness and --quorum go with --checkpoint-every",
            click.get_current_context(),
        )
    projections = find(names)
    with (
        working(once) as stop,
        ready(shared, redis=True) as connector,
        serve_metrics(connector.settings, shared.metrics, shared.names()),
        _projector(shared, connector, projections, stop, once, skip_after) as projector,
    ):
        sealer = Sealer(connector, shared.names())
        relay = Relay(connector, shared.names())
        signers = [] if every is None else checkpointers(shared, connector, keys, publish, require, witnesses, quorum)
        if once:
            sealed = sealer.seal()
            published = _publish(shared, connector, relay, stop)
            projected = _project(shared, connector, projections, projector, stop)
            stopped = [*sealer.stopped, *relay.stopped]
            for signer in signers:
                try:
                    signer.checkpoint()
                except IntegrityError as error:
                    stopped.append(error)
            _report(shared, sealed=sealed, published=published, projected=projected)
            _raise_first(stopped)
        else:
            _announce("Sealing, relaying, projecting" + (" and signing" if signers else ""), shared)
            signing = [partial(signer.run, stop, every or 0.0) for signer in signers]
            together(stop, lambda: sealer.run(stop), lambda: relay.run(stop), lambda: projector.run(stop), *signing)


@click.command("replay", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="All installed projections.")
@log_format
@pass_shared
def replay_command(shared: Shared, names: tuple[str, ...], every: bool) -> None:
    """Rebuild projections from Postgres, beside the live ones, and swap them in."""
    if bool(names) == every:
        raise click.UsageError("name the projections to replay, or give --all", click.get_current_context())
    projections = find(names)
    with ready(shared, redis=False) as connector:
        settings = connector.settings
    for projection in projections:
        with progress(f"Replaying {projection.name}") as advance:
            count = rebuild(settings, projection, advance)
        if shared.json:
            write_json({"projection": projection.name, "entries": count})
        else:
            line(f"Rebuilt {projection.name} from {counted(count, 'entry')}")


# ------------------------------------------------------------------------------------------------------------ workers


def find(names: tuple[str, ...]) -> list[Projection]:
    """The projections of these names, or as module:Class; without names, all installed ones."""
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")  # module:Class of the folder that we stand in
    return find_projections(list(names) or None)


@contextmanager
def _projector(
    shared: Shared,
    connector: Connector,
    projections: list[Projection],
    stop: threading.Event,
    once: bool,
    skip_after: int | None,
) -> Iterator[Projector]:
    """A projector whose tables exist. once: at the end, raises the error of the first projection that failed."""
    projector = Projector(connector, projections, shared.names(), skip_after=skip_after)
    try:
        with progress("Rebuilding") as advance:
            projector.install(interruptible(advance, stop))
        yield projector
    finally:
        projector.close()
    if once:
        _raise_first([*projector.stopped, *projector.failed])


def _raise_first(errors: Sequence[LedgerError]) -> None:
    """Raises the first error; the others are logged already."""
    if errors:
        raise errors[0]


def _publish(shared: Shared, connector: Connector, relay: Relay, stop: threading.Event) -> int:
    to_do = 0
    for ledger_end in connector.run(ledger_ends(shared.names())):
        last = connector.run(commands.state(ledger_end.ledger.name)).last
        to_do += ledger_end.position - (last.position if last.epoch == ledger_end.epoch else 0)
    with counting("Publishing", to_do) as advance:
        return relay.publish(interruptible(advance, stop))


def _project(
    shared: Shared, connector: Connector, projections: list[Projection], projector: Projector, stop: threading.Event
) -> int:
    to_do = 0
    positions = [connector.run(view_positions(projection.name)) for projection in projections]
    for ledger, _, end in connector.run(ledger_ends(shared.names())):
        reached = (each[ledger.ledger_id].position for each in positions if ledger.ledger_id in each)
        to_do += end - min(reached, default=0)
    with counting("Projecting", to_do) as advance:
        return projector.catch_up(interruptible(advance, stop))


def _open_epoch(shared: Shared, connector: Connector) -> None:
    ends = connector.run(ledger_ends(shared.names()))
    if len(ends) != 1:
        raise click.UsageError("name the ledger: auditledger --ledger NAME relay --new-epoch")
    ledger = ends[0].ledger
    epoch = connector.run(open_new_epoch(ledger))
    note(f"Ledger {ledger.name}: opened epoch {epoch}; its stream is filled again")


def _announce(doing: str, shared: Shared) -> None:
    names = shared.names()
    log = logging.getLogger("ledger")
    log.info("%s %s; Ctrl-C or SIGTERM stops", doing, f"ledger {names[0]}" if names else "all ledgers")


def _report(shared: Shared, **counts: int) -> None:
    if shared.json:
        write_json(counts)
    else:
        line("; ".join(f"{what.capitalize()} {counted(count, 'entry')}" for what, count in counts.items()))
