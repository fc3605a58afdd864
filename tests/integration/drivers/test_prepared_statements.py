"""psycopg after a broken pipeline: statements that it believes prepared, errors without a SQLSTATE.

It prepares a statement on its sixth use, and believes so also where the pipeline that would have was given up.
"""

from __future__ import annotations

import psycopg
import pytest

from ledger import Ledger
from ledger.drivers.connections import connect
from ledger.drivers.errors import translate
from ledger.drivers.run import drive
from ledger.errors import ConnectionLost, TailBusy, UsageError
from ledger.store.appender import Appender
from ledger.store.drafts import prepare
from tests.support.helpers import checked, event, numbers


@pytest.mark.parametrize("before", range(8))
def test_a_connection_that_waited_in_vain_for_the_tail_goes_on(
    ledger: Ledger, admin: psycopg.Connection, before: int
) -> None:
    """So often it had locked the tail before, and had to look an id up each time."""
    appender = Appender(ledger.ref, lock_timeout=0.2)
    connection = connect(ledger.settings)

    def append(number: int) -> None:
        draft = prepare(event(number, idempotency_key=str(number)), "main")
        drive(appender.append_if(draft, None), connection)

    def wait_in_vain(number: int) -> None:
        with admin.transaction():
            admin.execute("update ledger.tails set fence = fence + 1")
            with pytest.raises(TailBusy):
                append(number)

    wait_in_vain(0)
    for number in range(before):
        append(number)
    wait_in_vain(before)
    for number in range(before, before + 3):
        append(number)
    connection.close()
    assert numbers(checked(ledger)) == list(range(before + 3))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("consuming input failed: server closed the connection"), ConnectionLost),
        (psycopg.DatabaseError("server closed the connection unexpectedly\ninvalid socket"), ConnectionLost),
        (psycopg.InterfaceError("the connection is closed"), ConnectionLost),
        (psycopg.ProgrammingError("cannot adapt type 'object'"), UsageError),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), UsageError),
    ],
)
def test_errors_without_a_sqlstate(error: psycopg.Error, kind: type[Exception]) -> None:
    """A seed of the simulation was told UsageError where a pipeline's connection was lost."""
    assert type(translate(error)) is kind
