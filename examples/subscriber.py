"""A subscriber: tells customers about their invoices, at least once each, in any number of processes.

    LEDGER_DATABASE_URL=… LEDGER_REDIS_URL=… python -m examples.subscriber     # beside a running `auditledger run`

A new group begins with what comes next, so nobody gets mail about what is long past. Redis keeps which consumer of the
group has which entry. One that is not acknowledged within `claim_after` seconds (its process died) is delivered again,
here or in another process; one that is refused, because the mail server was away, after a delay. After `max_tries`
delivery attempts it is a dead letter. So a mail may be sent twice, hence the message id: made from the entry's, it
stays the same.
"""

from collections.abc import Callable
from email.message import EmailMessage

from ledger import Entry, Ledger


def mail_about(entry: Entry) -> EmailMessage | None:
    """The mail that an entry calls for; None where it calls for none."""
    if entry.action != "invoice.sent" or entry.erased:
        return None
    mail = EmailMessage()
    mail["Message-ID"] = f"<{entry.id}@billing.example>"
    mail["To"] = entry.after["to"]
    mail["Subject"] = f"Your invoice {entry.resource_id}"
    mail.set_content(f"Its total is {entry.after['total']}.")
    return mail


def run(ledger: Ledger, send: Callable[[EmailMessage], object], idle: float | None = None) -> None:
    """Deals with entries as they come. idle: end after so many seconds without one; None goes on for ever."""
    for delivery in ledger.subscribe("mailer", actions=["invoice.*"], claim_after=60, max_tries=5, idle=idle):
        mail = mail_about(delivery.entry)
        if mail is not None:
            try:
                send(mail)
            except OSError as error:
                print(f"entry {delivery.entry.position} later: {error}")
                delivery.nack(f"mail server: {error}", delay=30)
                continue
        delivery.ack()


if __name__ == "__main__":
    with Ledger.open() as ledger:
        run(ledger, send=print)
