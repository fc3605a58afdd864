"""Every job fails at each of its effects, in every way; after a restart the result is right.

What must hold then: the ledger verifies; the stream is the store's; views are what a replay makes of them; every
receipt that was handed out is true; nothing is missing, or there twice, or half done.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ledger import Ledger
from ledger.checkpoints.keys import create_key
from ledger.drivers.pools import Connector
from ledger.settings import Settings
from ledger.stream.relay import Relay
from tests.faults.crashing.appending import Append, AppendIf, AppendMany, OwnEntries
from tests.faults.crashing.effects import Fault, How, Seen, When
from tests.faults.crashing.jobs import Job, World
from tests.faults.crashing.migrating import Create, Migrate, schema
from tests.faults.crashing.processes import Crashes
from tests.faults.crashing.publishing import HandOutAgain, NewEpoch, Publish, Subscribe, check_stream
from tests.faults.crashing.sealing import Record, Seal
from tests.faults.crashing.signing import NAME, Rotate, Sign
from tests.faults.crashing.viewing import Install, Project, ProjectFew, Rebuild, Skip, check_views
from tests.support.api import AsyncApi, SyncApi
from tests.support.helpers import checked
from tests.support.logins import Logins
from tests.support.views import project
from tests.support.witnesses import serving

MANY = 5000
"""Entries from which on the views, which are not there yet, are not built for a job that does not know of them."""


@pytest.fixture(scope="module")
def crashes() -> Iterator[Crashes]:
    running = Crashes()
    yield running
    running.close()


@pytest.fixture
def world(admin: psycopg.Connection, login: Logins, redis_url: str) -> Iterator[World]:
    if admin.info.server_version >= 160000:  # thousands of logins, each with 4096 rounds of SHA-256 on either side
        admin.execute(sql.SQL("alter database {} set scram_iterations = 1").format(sql.Identifier(admin.info.dbname)))
    settings = Settings(database_url=login(attributes="superuser"), redis_url=redis_url)
    with Ledger(settings) as ledger, closing(Connector(settings)) as servers:
        yield World(ledger, admin, Relay(servers))


@pytest.mark.parametrize("colour", [SyncApi, AsyncApi], ids=["sync", "async"])
@pytest.mark.parametrize("kind", [Append, AppendIf, AppendMany, OwnEntries])
def test_appending(
    crashes: Crashes, world: World, tmp_path: Path, kind: type[Job], colour: type[SyncApi] | type[AsyncApi]
) -> None:
    """What a kill leaves behind is the plan's doing, not the driver's: for AsyncLedger, one shows that."""
    hows = How if colour is SyncApi or kind is Append else [How.CUT]
    survive(crashes, world, kind(kind.__name__, world.ledger.settings, tmp_path, colour), hows)


@pytest.mark.parametrize("colour", [SyncApi, AsyncApi], ids=["sync", "async"])
def test_recording(crashes: Crashes, world: World, tmp_path: Path, colour: type[SyncApi] | type[AsyncApi]) -> None:
    hows = How if colour is SyncApi else [How.CUT]
    survive(crashes, world, Record("Record", world.ledger.settings, tmp_path, colour), hows)


def test_sealing(crashes: Crashes, world: World, tmp_path: Path) -> None:
    survive(crashes, world, Seal("Seal", world.ledger.settings, tmp_path))


@pytest.mark.parametrize("kind", [Publish, NewEpoch, Subscribe, HandOutAgain])
def test_publishing(crashes: Crashes, world: World, tmp_path: Path, kind: type[Job]) -> None:
    survive(crashes, world, kind(kind.__name__, world.ledger.settings, tmp_path))


@pytest.mark.parametrize("kind", [Project, ProjectFew, Install, Rebuild, Skip])
def test_viewing(crashes: Crashes, world: World, tmp_path: Path, kind: type[Job]) -> None:
    project(world.ledger)
    survive(crashes, world, kind(kind.__name__, world.ledger.settings, tmp_path))


def test_signing(crashes: Crashes, world: World, tmp_path: Path) -> None:
    key = create_key(tmp_path / "main.key", NAME)
    with serving(tmp_path / "witness", key.verifier) as witness:
        sign = Sign("Sign", world.ledger.settings, tmp_path, witness=str(witness))
        survive(crashes, world, sign)
    report = world.ledger.verify(checkpoints=sign.notes(world), keys=[key.vkey])
    assert report.ok, report.findings


def test_rotating_a_key(crashes: Crashes, world: World, tmp_path: Path) -> None:
    survive(crashes, world, Rotate("Rotate", world.ledger.settings, tmp_path))


def test_creating_a_ledger(crashes: Crashes, world: World, tmp_path: Path) -> None:
    survive(crashes, world, Create("Create", world.ledger.settings, tmp_path))


def test_migrating(crashes: Crashes, database_url: str, admin: psycopg.Connection, tmp_path: Path) -> None:
    """Killed again and again in one database: at each effect, from the first on after every migration that is done."""
    job = Migrate("Migrate", Settings(database_url=database_url), tmp_path)
    with psycopg.connect(database_url, autocommit=True) as connection:
        at, applied, killed = count(1), 0, 0
        while crashes.run(job, Fault(next(at), How.KILLED, When.FAILED)).killed:
            killed += 1
            wait_until_gone(connection, set())
            before, applied = applied, migrations(connection)
            if applied > before:
                at = count(1)
        assert applied > 1
        assert killed > 7 * applied
        assert schema(connection) == schema(admin)


def migrations(connection: psycopg.Connection) -> int:
    [(there,)] = connection.execute("select to_regclass('ledger.migrations') is not null").fetchall()
    return len(connection.execute("select from ledger.migrations").fetchall()) if there else 0


def survive(crashes: Crashes, world: World, pattern: Job, hows: Iterable[How] = How) -> None:
    """Runs the job undisturbed, then once for every fault that can strike it."""
    for how in hows:
        job = replace(pattern, named=how == How.KILLED)
        for first in ("first", "then"):  # some have more to do the first time
            effects = run_undisturbed(crashes, world, replace(job, name=f"{job.name} {how} never, {first}"))
        for at, seen in enumerate(effects, 1):
            for fault in seen.faults(at, how):
                name = f"{job.name} {how} at {at} of {len(effects)}, {fault.when}"
                with naming(f"{name}: {seen.text}"):
                    survive_one(crashes, world, replace(job, name=name), fault, seen.kind)
    check_everything(world)


def run_undisturbed(crashes: Crashes, world: World, job: Job) -> list[Seen]:
    job.prepare(world)
    ended = crashes.run(job)
    job.check(world, ended.told)
    return ended.effects


def survive_one(crashes: Crashes, world: World, job: Job, fault: Fault, kind: str) -> None:
    """kind: of the effect that the fault is meant for."""
    job.prepare(world)
    before = backends(world.admin)
    ended = crashes.run(job, fault)
    assert ended.struck is not None, "it never came to this effect"
    assert ended.struck.kind == kind, f"another effect came in its place: {ended.struck.text}"
    told = ended.told
    if ended.killed:
        wait_until_gone(world.admin, before)
        job.look(world)
        told += crashes.run(job).told
    job.check(world, told)


def check_everything(world: World) -> None:
    [(epoch,)] = world.admin.execute("select epoch from ledger.tails where ledger_id = 1").fetchall()
    report = world.ledger.verify()
    assert report.ok, report.findings
    world.relay.publish()
    entries = checked(world.ledger)
    check_stream(world.ledger.settings, entries, epoch)
    if len(entries) < MANY:
        check_views(world)


@contextmanager
def naming(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def backends(admin: psycopg.Connection) -> set[tuple[int]]:
    return set(admin.execute("select pid from pg_stat_activity where datname = current_database()"))


def wait_until_gone(admin: psycopg.Connection, others: set[tuple[int]]) -> None:
    """Until Postgres has seen that the killed process is gone, and taken back what that had not committed."""
    end = time.monotonic() + 30
    while len(backends(admin) - others) > (not others):
        assert time.monotonic() < end
        time.sleep(0.002)
