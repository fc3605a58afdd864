"""demo: an end-to-end run on sample data, on servers of its own that are thrown away at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from ledger_projections import activity, history, search, state

from ledger import embedded
from ledger.cli.app import PROGRAM, Command
from ledger.cli.commands import demo_data
from ledger.cli.commands.read import print_activity, print_history, print_state
from ledger.cli.commands.verify import print_report
from ledger.cli.connect import start_embedded
from ledger.cli.context import HOME, Shared, pass_shared
from ledger.cli.output import entry_line, line, write_json
from ledger.client import Ledger
from ledger.drivers.connections import connect
from ledger.drivers.pools import Connector
from ledger.drivers.run import Connection, drive
from ledger.effects import Plan, Query, Row, SqlScript
from ledger.errors import LedgerError, RecordRefused
from ledger.events import Entry, Event, Receipt
from ledger.projection.discover import find_projections
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream.relay import Relay
from ledger.verify.report import Report

INVOICE = "inv_1007"
"""The one that the story is about; its amount as it was typed, as it should be, and as somebody would like it."""
WRONG, RIGHT, FORGED = 1448.8, 1484.8, 148.48
_READ = "select after::text from ledger.audit_logs where ledger_id = %s and position = %s"
_WRITE = "update ledger.audit_logs set after = %s::json where ledger_id = %s and position = %s"


class DemoFailed(LedgerError):
    """Something did not go as the demo tells it."""


@click.command("demo", cls=Command)
@pass_shared
def demo_command(shared: Shared) -> None:
    """Run an end-to-end demo on sample data: append, publish, query, verify, tamper, and find the tampering.

    Starts a Postgres and a Valkey of its own in a temporary folder and throws them away at the end. Whatever other
    ledgers there are, it does not touch them.
    """
    with _thrown_away() as home:
        story = _Story(quiet=shared.json)
        finding = story.tell(home)
    if shared.json:
        write_json({"entries": story.entries, "found": {"position": finding[0], "kind": finding[1]}})


@contextmanager
def _thrown_away() -> Iterator[Path]:
    """A folder for servers; at the end, however it comes, they are stopped and it is removed."""
    home = Path(tempfile.mkdtemp(prefix="auditledger-demo-"))
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    is_main = threading.current_thread() is threading.main_thread()
    kept = [signal.getsignal(each) for each in signals]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def handle(handler: object) -> None:
        for each in signals if is_main else ():
            signal.signal(each, handler)  # type: ignore[arg-type]

    try:
        handle(interrupt)
        yield home
    finally:
        handle(signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
        try:
            embedded.stop(home)
        finally:
            shutil.rmtree(home, ignore_errors=True)
            for each, handler in zip(signals, kept, strict=True) if is_main else ():
                signal.signal(each, handler)


class _Story:
    """Its steps, in order. quiet: tell nothing, only do it."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._step = 0
        self.entries = 0

    def tell(self, home: Path) -> tuple[int, str]:
        """All of it. The position and kind of what verify found. Raises DemoFailed."""
        self._heading("A Postgres and a Valkey of its own")
        began = time.perf_counter()
        settings = start_embedded(home, Settings())
        self._say(f"Running in {home} since {time.perf_counter() - began:.1f} s ago; both are thrown away at the end.")
        connection = connect(settings)
        try:
            with Ledger(settings) as ledger:
                self._record(ledger)
                receipt = self._in_a_transaction(ledger, connection)
                self._say_twice(ledger)
                self._refuse(connection)
                self._publish(settings)
                self._ask(ledger)
                self._verify(ledger, "Anyone can verify it", well=True)
                self.entries = ledger.tail().position
                return self._tamper(ledger, connection, receipt)
        finally:
            connection.close()

    def _record(self, ledger: Ledger) -> None:
        self._heading("An invoicing company records what happens", "ledger.append_many(events)")
        began = time.perf_counter()
        count, last = ledger.append_many(demo_data.events())
        self._say(
            f"{count} entries in {time.perf_counter() - began:.2f} s, each with the hash of the one before. The newest:"
        )
        for entry in ledger.read(last.position - 3):
            self._entry(entry)

    def _in_a_transaction(self, ledger: Ledger, connection: Connection) -> Receipt:
        self._heading("In the application's own transaction", "ledger.append(event, connection=connection)")

        def run(statement: str, *params: Any) -> None:
            drive(_query(statement, *params), lambda: connection)

        def correct(amount: float) -> Receipt:
            run("update invoices set amount = %s where id = %s", amount, INVOICE)
            event = Event(
                actor="user:anna",
                action="invoice.corrected",
                resource_type="invoice",
                resource_id=INVOICE,
                before={"amount": WRONG},
                after={"amount": amount},
                metadata={"reason": "digits swapped"},
            )
            return ledger.append(event, connection=connection)

        run("create table invoices (id text primary key, amount numeric)")
        run("insert into invoices values (%s, %s)", INVOICE, WRONG)
        before = ledger.tail().position
        try:
            with connection.transaction():
                correct(9999.99)
                raise _Undo
        except _Undo:
            pass
        self._expect(ledger.tail().position == before, "the rolled back append left an entry")
        self._say(f"Rolled back: the invoice is as it was, and the ledger still ends at {before}.")
        with connection.transaction():
            receipt = correct(RIGHT)
        self._expect(ledger.tail().position == before + 1, "the committed append left no entry")
        self._say(f"Committed: the invoice's amount {WRONG} became {RIGHT}, and entry {receipt.position} says so.")
        return receipt

    def _say_twice(self, ledger: Ledger) -> None:
        self._heading("Said twice, recorded once", "Event(…, idempotency_key='payment 88-1')")
        paid = Event(
            actor="service:bank",
            action="payment.received",
            resource_type="invoice",
            resource_id=INVOICE,
            actor_type="service",
            after={"paid": RIGHT},
            idempotency_key="payment 88-1",
        )
        first, second = ledger.append(paid), ledger.append(paid)
        self._expect(first == second, "the repeated event was recorded twice")
        self._say(f"The bank's message came twice; both times the receipt is that of entry {first.position}.")

    def _refuse(self, connection: Connection) -> None:
        self._heading("The database itself refuses changes", "update ledger.audit_logs set actor = 'nobody'")
        try:
            drive(_query("update ledger.audit_logs set actor = 'nobody'"), lambda: connection)
        except RecordRefused as error:
            self._say(str(error))
        else:
            raise DemoFailed("the database let an entry be changed")

    def _publish(self, settings: Settings) -> None:
        self._heading("Publish to the stream, project into views", "auditledger run")
        connector = Connector(settings)
        try:
            published = Relay(connector).publish()
            projector = Projector(connector, find_projections())
            projector.install()
            projected = projector.catch_up()
            projector.close()
        finally:
            connector.close()
        self._say(f"{published} entries published in order; {projected} of them in the four built-in views.")

    def _ask(self, ledger: Ledger) -> None:
        self._heading("Who wrote reminders?", "auditledger query --action 'invoice.*' --text letter --limit 3")
        for entry in ledger.run(search(ledger.ref, action="invoice.*", text="letter", limit=3)).entries:
            self._entry(entry)
        self._heading(f"What happened to {INVOICE}?", f"auditledger history invoice:{INVOICE}")
        if not self._quiet:
            print_history(ledger.run(history(ledger.ref, "invoice", INVOICE)))
        self._heading("And what is it now?", f"auditledger state invoice:{INVOICE}")
        found = ledger.run(state(ledger.ref, "invoice", INVOICE))
        self._expect(found is not None and found.state["amount"] == RIGHT, "the view resource_state is wrong")
        if not self._quiet and found is not None:
            print_state(found)
        self._heading("What did Anna do?", "auditledger activity user:anna --limit 3")
        if not self._quiet:
            print_activity(ledger.run(activity(ledger.ref, "user:anna", limit=3)))

    def _verify(self, ledger: Ledger, title: str, *, well: bool) -> Report:
        self._heading(title, "auditledger verify")
        report = ledger.verify()
        if not self._quiet:
            print_report(report)
        self._expect(report.ok == well, "verify says otherwise")
        return report

    def _tamper(self, ledger: Ledger, connection: Connection, receipt: Receipt) -> tuple[int, str]:
        """As somebody who has every right in the database, and covers the tracks."""
        position = receipt.position
        self._heading("Now a database administrator cheats", "triggers off, one amount changed, triggers on")
        forged = f'{{"amount":{FORGED}}}'
        original = _forge(connection, ledger.ref.ledger_id, position, forged)
        self._say(f"Entry {position} said {original}; now it says {forged}.")
        report = self._verify(ledger, "And is found out", well=False)
        found = [(finding.position, finding.kind) for finding in report.findings]
        self._expect(found == [(position, "body_mismatch")], f"it found {found}")
        _forge(connection, ledger.ref.ledger_id, position, original)
        self._verify(ledger, "Put right again, byte for byte, it verifies", well=True)
        self._say("")
        me = _command_line()
        self._say(f"Your turn: {me} append --actor user:me --action hello.said; {me} verify")
        return position, "body_mismatch"

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            raise DemoFailed(f"the demo did not go as it should, at step {self._step}: {otherwise}")

    def _heading(self, title: str, how: str = "") -> None:
        self._step += 1
        if self._quiet:
            return
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        number = f"{self._step:>2}. "
        text = f"\n{number}{title}"
        line_ = click.style(text, bold=True, fg="cyan") if colour else text
        more = click.style(how, dim=True) if colour else how
        sys.stdout.write(f"{line_}   {more}\n" if how else f"{line_}\n")
        sys.stdout.flush()

    def _say(self, text: str) -> None:
        if not self._quiet:
            line(text)

    def _entry(self, entry: Entry) -> None:
        if not self._quiet:
            entry_line(entry)


def _command_line() -> str:
    """How this program is called from where its user stands, on a ledger of their own in `.ledger` there."""
    called = Path(sys.argv[0])
    found = shutil.which(PROGRAM)
    if called.name != PROGRAM or (found is not None and called.exists() and called.samefile(found)):
        words = [PROGRAM]
    else:  # such as make's .venv/bin/auditledger; absolute where make changed the folder (make -C)
        stands_here = Path(os.environ.get("PWD") or ".").resolve() == Path.cwd().resolve()
        words = [sys.argv[0] if stands_here else str(called.absolute())]
    if any(os.environ.get(name) for name in ("LEDGER_DATABASE_URL", "LEDGER_REDIS_URL", "LEDGER_HOME")):
        words += ["--home", HOME]
    if os.environ.get("LEDGER_NAME", "main") != "main":
        words += ["--ledger", "main"]
    return shlex.join(words)


class _Undo(Exception):
    """Rolls the transaction back."""


def _forge(connection: Connection, ledger_id: int, position: int, after: str) -> str:
    """Puts another text into an entry. The text that was there."""

    def plan() -> Plan[str]:
        where = (ledger_id, position)
        yield SqlScript("begin; alter table ledger.audit_logs disable trigger append_only")
        [(text,)] = yield Query(_READ, where)
        yield Query(_WRITE, (after, *where))
        yield SqlScript("alter table ledger.audit_logs enable always trigger append_only")
        yield Query("commit")
        return str(text)

    return drive(plan(), lambda: connection)


def _query(sql: str, *params: Any) -> Plan[list[Row]]:
    rows: list[Row] = yield Query(sql, params)
    return rows
