"""A read view of your own: who failed to log in how often since they last succeeded.

    auditledger project examples.failed_logins:FailedLogins        # from the folder above; keeps it up to date
    auditledger replay examples.failed_logins:FailedLogins         # builds it anew from the ledger

    select actor, failures, since from ledger_views.failed_logins where failures >= 5;

A projection is a name, a version to raise when you change it, the SQL of its tables (plain names; every key begins with
ledger_id), and `apply`. It runs in the transaction that moves the projection's checkpoint, so each entry counts exactly
once; and it must depend on nothing but its tables and the entries, so that a replay gives the same rows. A view that
keeps something of the entries' bodies also has an `erase`, which drops it again.
"""

from collections.abc import Sequence

from ledger import Entry, Projection, Writes


class FailedLogins(Projection):
    name = "failed_logins"
    version = 1
    tables = ("failed_logins",)
    schema = """
        create table failed_logins (
            ledger_id int not null,
            actor text not null,
            failures int not null,
            since timestamptz not null,
            primary key (ledger_id, actor)
        )
    """

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        for entry in entries:
            if entry.action == "login.failed":
                tx.execute(
                    """
                    insert into failed_logins (ledger_id, actor, failures, since) values (%s, %s, 1, %s)
                    on conflict (ledger_id, actor) do update set failures = failed_logins.failures + 1
                    """,
                    (ledger_id, entry.actor, entry.occurred_at),
                )
            elif entry.action == "login.succeeded":
                tx.execute("delete from failed_logins where ledger_id = %s and actor = %s", (ledger_id, entry.actor))
