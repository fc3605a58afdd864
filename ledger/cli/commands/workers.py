"""relay, project, run: long-running, or with --once until caught up; and replay."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from ledger.cli import standard_streams
from ledger.cli.app import INTERRUPTED, OK, Command
from ledger.cli.connect import ready
from ledger.cli.context import Interrupted, Shared, pass_shared
from ledger.cli.logs import log_format, logging_to_stderr
from ledger.cli.options import checkpointers, metrics_port, signing_options
from ledger.cli.output import counted, counting, line, progress, write_json
from ledger.cli.params import Span
from ledger.cli.text import note
from ledger.drivers.pools import Connector
from ledger.errors import IntegrityError, LedgerError
from ledger.ops.metrics import serve_metrics
from ledger.projection.base import Projection, view_positions
from ledger.projection.discover import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.store.ledgers import LedgerEnd, ledger_ends
from ledger.stream import commands
from ledger.stream.relay import Relay, open_epoch

GRACE = 2.0
"""Seconds that the batch in hand is given after a stop was asked for; a server that hangs must not hold us up."""


def _once(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all workers."""
    once = click.option("--once", is_flag=True, help="Work until caught up, then end.")
    return once(metrics_port(log_format(command)))


_skip_after = click.option(
    "--skip-after", type=click.IntRange(1), metavar="N",
    help="Skip an entry that a projection failed at N times, on the record; else it stands still there.",
)  # fmt: skip


class _Stopped(Exception):
    """A stop was asked for while much was still to do: the batch in hand is done."""


@click.command("relay", cls=Command)
@_once
@click.option("--new-epoch", is_flag=True, help="Fill the stream anew, after a database was restored from a backup.")
@pass_shared
def relay_command(shared: Shared, once: bool, new_epoch: bool) -> None:
    """Publish entries to the Redis streams, in order and complete.

    Of all ledgers, or of the one named with --ledger. Any number of relays may run at once. The stream of a ledger with
    an entry that does not hold ends before it, until that is quarantined.
    """
    with (
        working(once) as stop,
        ready(shared, redis=True) as connector,
        serve_metrics(connector.settings, shared.metrics, shared.names()),
    ):
        if new_epoch:
            _open_epoch(shared, connector)
        relay = _relay(shared, connector, stop)
        if once:
            _report(shared, published=_publish(shared, connector, relay))
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

    A projection of your own goes by module:Class. Works without Redis, from Postgres alone. One that cannot apply an
    entry stands still there, and `status` says so; it is tried again after pauses, or with --once at the next call.
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
    """relay and project in one process, and sign checkpoints where that is asked for. An error in any ends all.

    Before an entry that does not hold, the jobs of that ledger stop, and look again after pauses; so does signing a
    ledger that does not continue what was signed. All else goes on.
    A key signs for the ledger that its name ends with. With --once, one checkpoint is signed at the end.
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
        relay = _relay(shared, connector, stop)
        signers = [] if every is None else checkpointers(shared, connector, keys, publish, require, witnesses, quorum)
        if once:
            published = _publish(shared, connector, relay)
            projected = _project(shared, connector, projections, projector, stop)
            stopped = relay.stopped
            for signer in signers:
                try:
                    signer.checkpoint()
                except IntegrityError as error:
                    stopped.append(error)
            _report(shared, published=published, projected=projected)
            _raise_first(stopped)
        else:
            _announce("Relaying, projecting and signing" if signers else "Relaying and projecting", shared)
            signing = [partial(signer.run, stop, every or 0.0) for signer in signers]
            _together(stop, lambda: relay.run(stop), lambda: projector.run(stop), *signing)


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
    """The projections of these names, or as module:Class; all installed ones where there are none."""
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")  # module:Class of the folder that we stand in
    return find_projections(list(names) or None)


def _relay(shared: Shared, connector: Connector, stop: threading.Event) -> Relay:
    """A relay that notices a stop between two batches, however much there is to catch up with."""

    class Stoppable(Relay):
        def _catch_up(self, ledger_end: LedgerEnd, progress: Callable[[int], None] | None) -> int:
            def step(count: int) -> None:
                if progress is not None:
                    progress(count)
                if stop.is_set():
                    raise _Stopped

            return super()._catch_up(ledger_end, step)

    return Stoppable(connector, shared.names())


@contextmanager
def _projector(
    shared: Shared,
    connector: Connector,
    projections: list[Projection],
    stop: threading.Event,
    once: bool,
    skip_after: int | None,
) -> Iterator[Projector]:
    """A projector with its tables there. once: at its end the first projection that failed is raised."""
    projector = Projector(connector, projections, shared.names(), skip_after=skip_after)
    try:
        with progress("Rebuilding") as advance:

            def step(done: int, total: int) -> None:
                advance(done, total)
                if stop.is_set():
                    raise _Stopped

            projector.install(step)
        yield projector
    finally:
        projector.close()
    if once:
        _raise_first([*projector.stopped, *projector.failed])


def _raise_first(errors: Sequence[LedgerError]) -> None:
    """Of what was stopped at; the others are logged already."""
    if errors:
        raise errors[0]


def _publish(shared: Shared, connector: Connector, relay: Relay) -> int:
    to_do = 0
    for ledger_end in connector.run(ledger_ends(shared.names())):
        last = connector.run(commands.state(ledger_end.ledger.name)).last
        to_do += ledger_end.position - (last.position if last.epoch == ledger_end.epoch else 0)
    with counting("Publishing", to_do) as step:
        return relay.publish(step)


def _project(
    shared: Shared, connector: Connector, projections: list[Projection], projector: Projector, stop: threading.Event
) -> int:
    to_do = 0
    found = [connector.run(view_positions(projection.name)) for projection in projections]
    for ledger, _, end in connector.run(ledger_ends(shared.names())):
        to_do += end - min((each[ledger.ledger_id].position for each in found if ledger.ledger_id in each), default=0)
    with counting("Projecting", to_do) as advance:

        def step(count: int) -> None:
            advance(count)
            if stop.is_set():
                raise _Stopped

        return projector.catch_up(step)


def _open_epoch(shared: Shared, connector: Connector) -> None:
    found = connector.run(ledger_ends(shared.names()))
    if len(found) != 1:
        raise click.UsageError("say which ledger: auditledger --ledger NAME relay --new-epoch")
    epoch = connector.run(open_epoch(found[0].ledger))
    note(f"Ledger {found[0].ledger.name}: opened epoch {epoch}; its stream is filled anew")


def _together(stop: threading.Event, *workers: Callable[[], None]) -> None:
    """Each in a thread, until all have ended; the first to end, or to fail, stops the others."""
    errors: list[BaseException] = []

    def work(worker: Callable[[], None]) -> None:
        try:
            worker()
        except BaseException as error:
            errors.append(error)
        finally:
            stop.set()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    wait_until(stop)
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, _Stopped)):
        raise error


def _announce(doing: str, shared: Shared) -> None:
    names = shared.names()
    log = logging.getLogger("ledger")
    log.info("%s %s; Ctrl-C or SIGTERM stops", doing, f"ledger {names[0]}" if names else "all ledgers")


def _report(shared: Shared, **counts: int) -> None:
    if shared.json:
        write_json(counts)
    else:
        line("; ".join(f"{what.capitalize()} {counted(count, 'entry')}" for what, count in counts.items()))


def wait_until(stop: threading.Event) -> None:
    """In turns: the kernel may give a signal to another thread, which does not wake this one, where handlers run."""
    while not stop.wait(0.5):
        pass


@contextmanager
def working(once: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; log lines on stderr meanwhile.

    once: being stopped means that it did not come to its end. Else it is how the work ends.
    """
    stop, done = threading.Event(), threading.Event()
    kept = []
    if threading.current_thread() is threading.main_thread():

        def ask(*_: object) -> None:
            # In a thread: the handler may have interrupted this one while it held the event's lock.
            threading.Thread(target=_end, args=(stop, done, INTERRUPTED if once else OK), daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            kept.append((number, signal.signal(number, ask)))
    shared = click.get_current_context().find_object(Shared)
    with logging_to_stderr(shared.log_format if shared else "text") as log:
        try:
            yield stop
        except _Stopped:
            if once:
                raise Interrupted("stopped before it had caught up") from None
        finally:
            done.set()
            if stop.is_set() and not once:
                log.info("Stopped")
            for number, before in kept:
                signal.signal(number, before)


def _end(stop: threading.Event, done: threading.Event, code: int) -> None:
    """Asks for a stop; ends the process where that is not heeded in time, which is safe at any moment."""
    stop.set()
    if not done.wait(GRACE):
        log = logging.getLogger("ledger")
        log.warning("Stopped; the batch in hand was given up after %g s: whoever is started next does it again", GRACE)
        standard_streams.settle()
        os._exit(code)
