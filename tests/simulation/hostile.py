"""A writer of one ledger, VICTIM, who means ill: what the database refuses it, and what it cannot refuse.

What it cannot refuse is an entry whose hash or body is not true. Workers of that ledger stop before such an entry, all
others go on; once it is quarantined, on the record, they go on past it, and `verify` goes on naming it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg

from ledger import Event, Ledger, StreamDiverged
from ledger.drivers.run import drive
from ledger.events import Tail
from ledger.format import chain
from ledger.migrate.roles import grant
from ledger.store.drafts import prepare
from ledger.store.entry_rows import row_params
from ledger.store.ledgers import SQL, create_ledger, ledger_ends
from ledger.stream.publish import resume_point
from ledger.stream.relay import open_new_epoch
from tests.simulation.notes import Notes, lines
from tests.simulation.violation import Violation
from tests.simulation.world import World
from tests.support.findings import places

VICTIM, LOGIN = "victim", "hostile"

_ENTRY = (
    "insert into ledger.audit_logs (ledger_id, position, id, recorded_at, occurred_at, actor, actor_type, action, salt,"
    " body_hash, prev_hash, hash) select ledger_id, position + {}, gen_random_uuid(), greatest(recorded_at, now()), {},"
    " {}, 'user', {}, decode(repeat('00', 16), 'hex'), decode(repeat('00', 32), 'hex'), hash, {}"
    " from ledger.tails where ledger_id = {}"
)
_HASH = "decode(repeat('ab', 32), 'hex')"
REFUSED = {
    "another ledger": "insert into ledger.audit_logs (ledger_id, position, id, recorded_at, occurred_at, actor,"
    " actor_type, action, salt, body_hash, prev_hash, hash)"
    " values (1, 1, gen_random_uuid(), now(), now(), 'x', 'user', 'y',"
    f" decode(repeat('00', 16), 'hex'), {_HASH}, {_HASH}, {_HASH})",
    "a gap": _ENTRY.format(2, "now()", "'x'", "'y'", _HASH, 2),
    "a fork": _ENTRY.format(0, "now()", "'x'", "'y'", _HASH, 2),
    "infinity": _ENTRY.format(1, "'infinity'", "'x'", "'y'", _HASH, 2),
    "no actor": _ENTRY.format(1, "now()", "''", "'y'", _HASH, 2),
    "an actor too long": _ENTRY.format(1, "now()", "repeat('x', 256)", "'y'", _HASH, 2),
    "an own action": _ENTRY.format(1, "now()", "'x'", "'ledger.entry_erased'", _HASH, 2),
    "a short hash": _ENTRY.format(1, "now()", "'x'", "'y'", "decode('ab', 'hex')", 2),
    "an update": "update ledger.audit_logs set actor = 'x'",
    "a deletion": "delete from ledger.audit_logs",
    "a truncation": "truncate ledger.audit_logs",
    "the tail": "update ledger.tails set position = 0",
    "the epoch": "update ledger.tails set epoch = 2147483647",
    "a ledger": "select ledger.create_ledger('mine')",
    "a role": "select ledger.grant_role('ledger_owner', 'hostile', null)",
    "reading": "select * from ledger.audit_logs",
    "the outbox": "select * from ledger.outbox",
    "an outbox row": "insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action)"
    " values (1, gen_random_uuid(), false, now(), 'x', 'user', 'y')",
    "recording elsewhere": "select ledger.record('main', actor => 'x', action => 'y')",
    "tiles": "insert into ledger.tiles values (1, 0, 0, decode(repeat('00', 32), 'hex'))",
    "becoming the owner": "set role ledger_owner",
}
"""Statements of which none may succeed."""
HARMLESS = (
    "update ledger.tails set fence = 9223372036854775807",
    "update ledger.tails set fence = -9223372036854775808 where ledger_id = 1",
)
"""Statements that may succeed, and stop nobody."""


def prepare_victim(world: World) -> None:
    """The ledger, its first entry, and the login."""
    with world.database() as connection:
        drive(create_ledger(VICTIM), connection)
        connection.execute(f"create role {LOGIN} login")
        drive(grant("ledger_writer", LOGIN, [VICTIM]), connection)
    _honest(world)


def attack(world: World, folder: Path, chance: random.Random) -> int:
    """Some of what is refused, and an entry that is false. How much of it was tried."""
    tried = 0
    with world.database(LOGIN) as connection:
        for name in chance.sample(sorted(REFUSED), 5):
            try:
                connection.execute(REFUSED[name])
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            except psycopg.Error:
                tried += 1
            else:
                Notes(folder / "breaches").add(what=name)
        for statement in HARMLESS:
            connection.execute(statement)
        tried += _lie(connection, folder, chance)
    _honest(world)
    return tried


def _lie(connection: psycopg.Connection, folder: Path, chance: random.Random) -> bool:
    """Inserts an entry whose hash, or whose body's hash, is not true. False where somebody else was faster."""
    [(ledger_id, *tail)] = connection.execute(
        "select ledger_id, position, hash, recorded_at from ledger.tails join ledger.ledgers using (ledger_id)"
        " where name = %s",
        (VICTIM,),
    ).fetchall()
    [(now,)] = connection.execute("select clock_timestamp()").fetchall()
    [link] = chain.extend(Tail(*tail), [prepare(Event("mallory", "victim.lied", after={"n": 1}), VICTIM)], now)
    params = list(row_params(ledger_id, link))
    hash_, body_hash = 16, 14
    params[chance.choice((hash_, body_hash))] = os.urandom(32)
    try:
        connection.execute(SQL["insert"].encode(), [*params, link.position, link.draft.id, link.hash])
    except psycopg.errors.RaiseException:
        return False
    except psycopg.DatabaseError as error:
        if (error.sqlstate or "").startswith(("LE", "23505", "55P03")):
            return False
        raise
    Notes(folder / "lies").add(position=link.position, hash=bytes(params[hash_]).hex())
    return True


def _honest(world: World) -> None:
    """Appends to the ledger as if nothing were wrong with it."""
    with _victim(world) as victim:
        victim.append(Event("app", "victim.lives"))


def _victim(world: World) -> Ledger:
    return Ledger(replace(world.direct, name=VICTIM))


def _lies(world: World, folder: Path) -> list[int]:
    """The positions of false entries that stand; a restore takes some away."""
    with world.database() as connection:
        rows = connection.execute(
            "select position, encode(hash, 'hex') from ledger.audit_logs join ledger.ledgers using (ledger_id)"
            " where name = %s",
            (VICTIM,),
        )
        stored = dict(rows.fetchall())
    noted = {(line["position"], line["hash"]) for line in lines(folder / "lies")}
    return sorted(position for position, hash_ in noted if stored.get(position) == hash_)


def quarantine_lies(world: World, folder: Path) -> None:
    """What an operator does: so that the workers of that ledger go on too."""
    with _victim(world) as victim:
        for position in _lies(world, folder):
            victim.quarantine(position, "operator:1", "a false entry")


def open_epochs(world: World) -> None:
    """After a restore: the victim's stream may hold what is not its ledger's too."""
    with _victim(world) as victim:
        victim.append(Event("simulation", "victim.restored"))
        if diverged(victim):
            victim.run(open_new_epoch(victim.ref))
        assert not diverged(victim)


def diverged(ledger: Ledger) -> bool:
    """Does the stream hold what the ledger does not have?"""
    [ledger_end] = ledger.run(ledger_ends([ledger.ref.name]))
    try:
        ledger.run(resume_point(ledger_end, ledger.settings.stream_keep))
    except StreamDiverged:
        return True
    return False


def harm(world: World, folder: Path) -> Iterator[Violation]:
    """What the writer did that he may not; and each false entry is named by `verify`, no other is."""
    for line in lines(folder / "breaches"):
        yield Violation("other", f"a writer of one ledger could do it: {line['what']}")
    known = _lies(world, folder)
    with _victim(world) as victim:
        report = victim.verify()
    named = {position for position, _ in places(report.findings)}
    for position in known:
        if position not in named:
            yield Violation("other", f"entry {position} of {VICTIM} is false, and verify does not name it")
    for finding in report.findings:
        if not {position for position, _ in places([finding])} <= set(known):
            yield Violation("other", f"verify of {VICTIM}: {finding}")
