"""demo: an end-to-end run on sample data, on temporary servers."""

from __future__ import annotations

import shutil
import signal
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
from ledger.cli.app import Command
from ledger.cli.commands import demo_data
from ledger.cli.commands.demo_output import DemoFailed, Steps, command_line
from ledger.cli.commands.read import print_activity, print_history, print_state
from ledger.cli.commands.verify import print_report
from ledger.cli.connect import start_embedded
from ledger.cli.context import Shared, pass_shared
from ledger.cli.output import write_json
from ledger.client import Ledger
from ledger.drivers.connections import connect
from ledger.drivers.cursors import Connection
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.effects import Plan, Query, Row, SqlScript
from ledger.errors import RecordRefused
from ledger.events import Event, Receipt
from ledger.projection.base import find_projections
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream.relay import Relay
from ledger.verify.report import Report

INVOICE = "inv_1007"
"""The demo's main invoice; its amount before the correction, after it, and after the tampering."""
WRONG, RIGHT, FORGED = 1448.8, 1484.8, 148.48
_READ = "select after::text from ledger.audit_logs where ledger_id = %s and position = %s"
_WRITE = "update ledger.audit_logs set after = %s::json where ledger_id = %s and position = %s"


@click.command("demo", cls=Command)
@pass_shared
def demo_command(shared: Shared) -> None:
    """Run an end-to-end demo on sample data: append, publish, query, verify, tamper, and find the tampering.

    Starts a temporary Postgres and Valkey and deletes them at the end. Touches no other ledger.
    """
    with _temporary_home() as home:
        demo = _Demo(Steps(quiet=shared.json))
        position, kind = demo.run(home)
    if shared.json:
        write_json({"entries": demo.entries, "found": {"position": position, "kind": kind}})


@contextmanager
def _temporary_home() -> Iterator[Path]:
    """A folder for servers. At the end, also after a signal, the servers are stopped and the folder is removed."""
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


class _Demo:
    """The demo's steps, in order. entries: how many the ledger has at the end."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.entries = 0

    def run(self, home: Path) -> tuple[int, str]:
        """Runs all steps. Returns position and kind of the finding. Raises DemoFailed."""
        self._steps.begin("Start a Postgres and a Valkey")
        began = time.perf_counter()
        settings = start_embedded(home, Settings())
        self._steps.text(
            f"Running in {home}, started in {time.perf_counter() - began:.1f} s; both are deleted at the end."
        )
        connection = connect(settings)
        try:
            with Ledger(settings) as ledger:
                self._record(ledger)
                receipt = self._in_a_transaction(ledger, connection)
                self._append_twice(ledger)
                self._refuse(connection)
                self._publish(settings)
                self._query(ledger)
                self._verify(ledger, "Verify", well=True)
                self.entries = ledger.tail().position
                return self._tamper(ledger, connection, receipt)
        finally:
            connection.close()

    def _record(self, ledger: Ledger) -> None:
        self._steps.begin("Record the events of an invoicing company", "ledger.append_many(events)")
        began = time.perf_counter()
        count, last = ledger.append_many(demo_data.events())
        seconds = time.perf_counter() - began
        self._steps.text(f"{count} entries in {seconds:.2f} s, each with the hash of the previous one. The newest:")
        for entry in ledger.read(last.position - 3):
            self._steps.entry(entry)

    def _in_a_transaction(self, ledger: Ledger, connection: Connection) -> Receipt:
        self._steps.begin("Append in the application's transaction", "ledger.append(event, connection=connection)")

        def run(statement: str, *params: Any) -> None:
            drive(_rows(statement, *params), connection)

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
        self._steps.expect(ledger.tail().position == before, "the rolled back append left an entry")
        self._steps.text(f"Rolled back: the invoice is unchanged, and the ledger still ends at {before}.")
        with connection.transaction():
            receipt = correct(RIGHT)
        self._steps.expect(ledger.tail().position == before + 1, "the committed append left no entry")
        self._steps.text(
            f"Committed: the invoice's amount is now {RIGHT} instead of {WRONG}; entry {receipt.position} records it."
        )
        return receipt

    def _append_twice(self, ledger: Ledger) -> None:
        self._steps.begin("Append twice, record once", "Event(…, idempotency_key='payment 88-1')")
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
        self._steps.expect(first == second, "the duplicate was recorded")
        self._steps.text(f"The bank's message came twice; both receipts are those of entry {first.position}.")

    def _refuse(self, connection: Connection) -> None:
        self._steps.begin("The database refuses changes", "update ledger.audit_logs set actor = 'nobody'")
        try:
            drive(_rows("update ledger.audit_logs set actor = 'nobody'"), connection)
        except RecordRefused as error:
            self._steps.text(str(error))
        else:
            raise DemoFailed("the database let an entry be changed")

    def _publish(self, settings: Settings) -> None:
        self._steps.begin("Publish to the stream, project into views", "auditledger run")
        connector = Connector(settings)
        try:
            published = Relay(connector).publish()
            projector = Projector(connector, find_projections())
            projector.install()
            projected = projector.catch_up()
            projector.close()
        finally:
            connector.close()
        self._steps.text(f"{published} entries published in order; {projected} of them in the four built-in views.")

    def _query(self, ledger: Ledger) -> None:
        self._steps.begin("Search for reminders", "auditledger query --action 'invoice.*' --text letter --limit 3")
        for entry in ledger.run(search(ledger.ref, action="invoice.*", text="letter", limit=3)).entries:
            self._steps.entry(entry)
        self._steps.begin(f"History of {INVOICE}", f"auditledger history invoice:{INVOICE}")
        if not self._steps.quiet:
            print_history(ledger.run(history(ledger.ref, "invoice", INVOICE)))
        self._steps.begin("Its current state", f"auditledger state invoice:{INVOICE}")
        current = ledger.run(state(ledger.ref, "invoice", INVOICE))
        self._steps.expect(current is not None and current.state["amount"] == RIGHT, "the view resource_state is wrong")
        if not self._steps.quiet and current is not None:
            print_state(current)
        self._steps.begin("Anna's activity", "auditledger activity user:anna --limit 3")
        if not self._steps.quiet:
            print_activity(ledger.run(activity(ledger.ref, "user:anna", limit=3)))

    def _verify(self, ledger: Ledger, title: str, *, well: bool) -> Report:
        self._steps.begin(title, "auditledger verify")
        report = ledger.verify()
        if not self._steps.quiet:
            print_report(report)
        self._steps.expect(report.ok == well, "verify has another result")
        return report

    def _tamper(self, ledger: Ledger, connection: Connection, receipt: Receipt) -> tuple[int, str]:
        """Changes an entry as a superuser who restores the trigger afterwards."""
        position = receipt.position
        self._steps.begin("A database administrator tampers", "triggers off, one amount changed, triggers on")
        forged = f'{{"amount":{FORGED}}}'
        original = _forge(connection, ledger.ref.ledger_id, position, forged)
        self._steps.text(f"Entry {position} had {original}; now it has {forged}.")
        report = self._verify(ledger, "Verify finds it", well=False)
        findings = [(finding.position, finding.kind) for finding in report.findings]
        self._steps.expect(findings == [(position, "body_mismatch")], f"verify found {findings}")
        _forge(connection, ledger.ref.ledger_id, position, original)
        self._verify(ledger, "Restored, byte for byte, it verifies again", well=True)
        self._steps.text("")
        me = command_line()
        self._steps.text(f"Your turn: {me} append --actor user:me --action hello.said; {me} verify")
        return position, "body_mismatch"


class _Undo(Exception):
    """Rolls the transaction back."""


def _forge(connection: Connection, ledger_id: int, position: int, after: str) -> str:
    """Replaces `after` of an entry. Returns the previous text."""

    def plan() -> Plan[str]:
        key = (ledger_id, position)
        yield SqlScript("begin; alter table ledger.audit_logs disable trigger append_only")
        [(text,)] = yield Query(_READ, key)
        yield Query(_WRITE, (after, *key))
        yield SqlScript("alter table ledger.audit_logs enable always trigger append_only")
        yield Query("commit")
        return str(text)

    return drive(plan(), connection)


def _rows(sql: str, *params: Any) -> Plan[list[Row]]:
    rows: list[Row] = yield Query(sql, params)
    return rows
