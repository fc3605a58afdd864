"""Captured tables: triggers that record the changes of a table in the outbox, whatever the client. Plans.

The functions of the schema do the work (schema/0015_capture.sql); a policy is a row of `ledger.captures`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ledger.capture.action_pattern import check_action
from ledger.capture.deny_patterns import DENY, deny_pattern, words
from ledger.effects import Plan, Query, Refused
from ledger.errors import UsageError
from ledger.statements import sql

SQL = sql(__file__)
NoActor: TypeAlias = Literal["require", "unknown", "user"]
BATCH = 2000
"""Rows of one transaction of `backfill`."""
_WRONG_USE = frozenset(
    ["LE012", "LE013", "P0003", "42P01", "42703", "42601", "42883", "42804", "42602", "3F000", "0A000", "42809"]
)
"""SQLSTATEs: what is given names nothing, or is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a table is captured.

    key: columns that identify a row, none of them redacted or NULL; the primary key by default.
    action: `{op}` stands for created, updated, deleted, truncated or backfilled; `RESOURCE_TYPE.{op}` by default.
    resource_type: the table's name by default.
    exclude, redact, digest: columns, as in `Redaction`.
    allow: what the built-in patterns do not redact: names of patterns, columns, or keys inside JSON.
    condition: an SQL condition on a row; a change is recorded if it holds for the row before or after.
    full: an update records all columns, not those that changed.
    no_actor: a change outside of any context is refused (`require`), or its actor is `unknown` or `db:USER` (`user`).
    Raises UsageError.
    """

    ledger: str = "main"
    key: tuple[str, ...] = ()
    action: str | None = None
    resource_type: str | None = None
    exclude: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    digest: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    condition: str | None = None
    full: bool = False
    no_actor: NoActor = "user"

    def __post_init__(self) -> None:
        check_action(self.action)

    def as_json(self) -> str:
        """As `ledger.install_capture` takes it, the built-in patterns included."""
        members: dict[str, Any] = {
            "ledger": self.ledger,
            "key": self.key,
            "action": self.action,
            "resource_type": self.resource_type,
            "exclude": self.exclude,
            "redact": self.redact,
            "digest": self.digest,
            "allow": [words(each) for each in self.allow],
            "condition": self.condition,
            "full_rows": self.full,
            "no_actor": self.no_actor,
            "deny": deny_pattern(self.allow),
            "hints": "|".join(word.replace("_", "") for name in DENY.values() for word in name),
            "cards": "card_number" not in self.allow,
        }
        return msgspec.json.encode(members).decode()


class Captured(NamedTuple):
    """A captured table. policy: as JSON text. backfilled: whether all rows that it had are recorded."""

    table: str
    ledger: str
    policy: str
    backfilled: bool


class Drift(NamedTuple):
    """What is not as it was at the installation. broken: changes of the table are not captured."""

    table: str
    broken: bool
    problem: str


def install(table: str, policy: Policy, *, digest_key: str | None = None) -> Plan[None]:
    """Captures a table from now on, or changes how. table: as SQL writes it, quoted where that needs quotes.

    digest_key: of `Policy.digest`, kept in the database; None for the one that it has, or a random one. By the table's
    owner or a superuser, with the role ledger_admin. Waits for transactions that write the table. Raises UsageError.
    """
    if policy.digest and digest_key is not None:
        yield from _run("digest_key", digest_key)
    yield from _run("install", table, policy.as_json())


def remove(table: str) -> Plan[None]:
    """Ends the capture of a table. Raises UsageError."""
    yield from _run("remove", table)


def install_sql(table: str, policy: Policy) -> str:
    """The statement of `install`, for a migration."""
    return SQL["install"] % (_literal(table), _literal(policy.as_json())) + ";"


def remove_sql(table: str) -> str:
    """The statement of `remove`, for a migration."""
    return SQL["remove"] % _literal(table) + ";"


def captured() -> Plan[list[Captured]]:
    return [Captured(*row) for row in (yield from _run("list"))]


def drift(table: str | None = None) -> Plan[list[Drift]]:
    """Of all captured tables, or one. Raises UsageError."""
    return [Drift(*row) for row in (yield from _run("drift", table))]


def backfill(table: str, batch: int = BATCH) -> Plan[int]:
    """Records the next rows that a captured table has; returns how many it read, 0 once all are recorded.

    One transaction, which keeps how far it came: each row is recorded once, however often this is interrupted.
    Raises UsageError.
    """
    [(rows,)] = yield from _run("backfill", table, batch)
    return int(rows)


def backfill_again(table: str) -> Plan[None]:
    """Lets `backfill` begin anew. Raises UsageError."""
    yield from _run("backfill_again", table)


def _run(statement: str, *params: object) -> Plan[Any]:
    try:
        return (yield Query(SQL[statement], params))
    except Refused as refused:
        if refused.sqlstate not in _WRONG_USE:
            raise
        # The statement that install_capture makes of the caller's SQL text.
        if "ledger_condition add constraint" in str(refused):
            raise UsageError(f"the condition: {refused.first_line}") from refused
        raise UsageError(str(refused).partition("\nCONTEXT")[0].replace("\n", " ")) from refused


def _literal(text: str) -> str:
    """An SQL literal that means the same with `standard_conforming_strings` off."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else " E'" + quoted.replace("\\", "\\\\") + "'"
