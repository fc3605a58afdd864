"""Damaged files of Postgres: verify names the entries, or reports what is unreadable (exit code 3)."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from ledger_projections import ActorActivity, Timeline

from ledger import Delivery, Ledger
from ledger.checkpoints.keys import create_key
from ledger.checkpoints.signer import Checkpointer
from ledger.drivers.pools import Connector
from ledger.errors import EntryUnreadable, Unavailable
from ledger.migrate.migrate import migrate
from ledger.projection.base import view_positions
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream import commands
from ledger.stream.relay import Relay
from ledger.verify import database
from ledger.verify.report import Report
from tests.support.cli import Cli
from tests.support.clusters import Cluster, Clusters, clusters_folder
from tests.support.findings import places
from tests.support.helpers import event

PAGE = 8192
ENTRIES, LONG = 600, 300
"""Entry LONG has a body that Postgres stores apart (TOAST)."""


class Whole(NamedTuple):
    """A stopped cluster to copy. files: relation → its file. positions: of the entries in each page of the table."""

    clusters: Clusters
    files: dict[str, str]
    positions: dict[int, list[int]]


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with clusters_folder() as clusters:
        cluster = clusters.new("whole")
        url = cluster.create()
        migrate(Settings(database_url=url))
        noise = random.Random(7).randbytes(20_000).hex()
        with Ledger.open(database_url=url) as ledger:
            bodies = ({"text": noise if number == LONG else "x" * 200} for number in range(1, ENTRIES + 1))
            ledger.append_many(event(after=body) for body in bodies)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("vacuum analyze")
            files = connection.execute(
                "select case relkind when 't' then 'toast' else relname end, pg_relation_filepath(oid) from pg_class"
                " where relname in ('audit_logs', 'one_entry_per_position', 'audit_logs_by_actor', 'tails')"
                " or oid = (select reltoastrelid from pg_class where oid = 'ledger.audit_logs'::regclass)"
            ).fetchall()
            pages: dict[int, list[int]] = {}
            for page, position in connection.execute(
                "select (ctid::text::point)[0]::int, position from ledger.audit_logs order by position"
            ):
                pages.setdefault(page, []).append(position)
        cluster.stop()
        yield Whole(clusters, dict(files), pages)


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "zeros": lambda page: bytes(PAGE),
    "a header of ones": lambda page: b"\xff" * 24 + page[24:],
    "rows of noise": lambda page: page[: PAGE // 2] + bytes(byte ^ 0xA5 for byte in page[PAGE // 2 :]),
    "one bit of a row": lambda page: page[:-100] + bytes([page[-100] ^ 1]) + page[-99:],
}


@pytest.fixture(params=["checksums", "no checksums"])
def damaged(request: pytest.FixtureRequest, whole: Whole) -> Iterator[Callable[..., Cluster]]:
    """Starts a copy of which pages were damaged."""
    cluster = whole.clusters.known("copy")

    def start(relation: str, damage: Damage, *pages: int) -> Cluster:
        subprocess.run(["cp", "-a", whole.clusters.folder / "whole", cluster.folder], check=True)
        if request.param == "no checksums":
            whole.clusters.run("pg_checksums", "--disable", "--no-sync", "-D", cluster.folder)
        with (cluster.folder / whole.files[relation]).open("r+b") as file:
            for page in pages:
                file.seek(page * PAGE)
                content = file.read(PAGE)
                file.seek(page * PAGE)
                file.write(damage(content))
        cluster.start()
        return cluster

    yield start
    cluster.kill()
    shutil.rmtree(cluster.folder, ignore_errors=True)


def outcome(cluster: Cluster) -> Report | str:
    """The report, or what Unavailable says. The command line agrees, and never takes it for a fault of its own."""
    settings = Settings(database_url=cluster.url())
    ran = Cli("--database-url", cluster.url())("verify")
    try:
        report = database.verify(settings)
    except Unavailable as error:
        assert ran.code == 3, ran
        assert "Traceback" not in ran.err and "an internal error" not in ran.err
        return str(error)
    assert not report.ok and ran.code == 1
    return report


@pytest.mark.parametrize("name", DAMAGES)
def test_a_page_of_entries(whole: Whole, damaged: Callable[..., Cluster], name: str) -> None:
    """Entries of no other page are named, but for the one after it, whose link cannot be judged."""
    wrong = {*whole.positions[3], *whole.positions[4]}
    cluster = damaged("audit_logs", DAMAGES[name], 3, 4)
    found = outcome(cluster)
    if not isinstance(found, Report):  # noise that no checksum tells may end the server's process
        assert name == "rows of noise" and "cannot be reached" in found
        return
    positions = {position for position, _ in places(found.findings)} - {None}
    assert positions and positions <= wrong | {max(wrong) + 1}
    if name == "zeros":
        assert positions == wrong
        assert {each.kind for each in found.findings if each.position} == {"missing_entry"}
        assert any("one_entry_per_position" in each.detail for each in found.findings)
        assert database.verify(Settings(database_url=cluster.url()), workers=2).findings == found.findings


@pytest.mark.parametrize("name", ["zeros", "a header of ones"])
def test_the_newest_page(whole: Whole, damaged: Callable[..., Cluster], name: str) -> None:
    found = outcome(damaged("audit_logs", DAMAGES[name], max(whole.positions)))
    assert isinstance(found, Report), found
    assert {position for position, _ in places(found.findings)} - {None} == set(whole.positions[max(whole.positions)])


def test_all_pages(whole: Whole, damaged: Callable[..., Cluster]) -> None:
    found = outcome(damaged("audit_logs", DAMAGES["zeros"], *whole.positions))
    assert isinstance(found, Report) and len(places(found.findings)) >= ENTRIES


@pytest.mark.parametrize("name", ["zeros", "rows of noise"])
def test_a_body_that_is_stored_apart(damaged: Callable[..., Cluster], name: str) -> None:
    found = outcome(damaged("toast", DAMAGES[name], 0, 1))
    assert isinstance(found, Report), found
    assert [each.position for each in found.findings] == [LONG]
    assert found.findings[0].kind in ("unreadable", "body_mismatch")


def test_a_body_that_cannot_be_read_stops_one_ledger(
    damaged: Callable[..., Cluster], redis_url: str, tmp_path: Path
) -> None:
    """Right before that entry; `status` and `doctor` say so, and all other ledgers go on."""
    cluster = damaged("toast", DAMAGES["zeros"], 0, 1)
    settings = Settings(database_url=cluster.url(), redis_url=redis_url)
    cli = Cli("--database-url", cluster.url(), "--redis-url", redis_url)
    assert cli("create", "other").code == 0
    with Ledger(replace(settings, name="other")) as other:
        other.append_many(event(number) for number in range(5))
    with closing(Connector(settings)) as servers:
        relay, projecting = Relay(servers), Projector(servers, [Timeline(), ActorActivity()])
        with closing(projecting):
            projecting.install()
            relay.publish()
            projecting.catch_up()
            for name, last in (("main", LONG - 1), ("other", 5)):
                with Ledger(replace(settings, name=name)) as ledger:
                    assert servers.run(commands.state(name)).last.position == last
                    for view in ("timeline", "actor_activity"):
                        assert servers.run(view_positions(view))[ledger.ref.ledger_id].position == last
            for error in (*relay.stopped, *projecting.stopped):
                assert isinstance(error, EntryUnreadable) and (error.position, error.ledger) == (LONG, "main")
                assert "from a backup or a standby" in str(error) and "quarantine" not in str(error)
            assert len(relay.stopped) == len(projecting.stopped) == 1
        create_key(tmp_path / "other.key", "example.com/other")
        assert Checkpointer(servers, [tmp_path / "other.key"], name="other").checkpoint().size == 5
        create_key(tmp_path / "main.key", "example.com/main")
        with pytest.raises(EntryUnreadable, match=f"entry {LONG}: unreadable: .* backup or a standby"):
            Checkpointer(servers, [tmp_path / "main.key"]).checkpoint()
    with Ledger(settings) as ledger:
        seen: list[int] = []
        with pytest.raises(EntryUnreadable):
            seen.extend(entry.position for entry in ledger.follow(0, idle=2))
        with pytest.raises(EntryUnreadable):
            seen.extend(delivery.entry.position for delivery in acknowledged(ledger))
        with pytest.raises(EntryUnreadable):
            rebuild(settings, Timeline())
        assert [entry.position for entry in ledger.read(after=LONG)] == list(range(LONG + 1, ENTRIES + 1))
        assert ledger.append(event(1)).position == ENTRIES + 1
    [main, other] = cli("status", "--json").json["ledgers"]
    assert [(each["position"], each["damaged"]) for each in main["stopped"]] == [(LONG, True)]
    assert other["stopped"] == []
    assert f"ENTRY {LONG} FAILS VERIFICATION" in (told := cli("status").out) and "from a backup or a standby" in told
    [check] = [each for each in cli("doctor", "--json").json["checks"] if each["name"] == "main: entries"]
    assert check["level"] == "danger" and "unreadable" in check["found"] and "quarantine" not in check["advice"]
    for command in ("relay", "project", "run"):
        ran = cli(command, "--once")
        assert ran.code == 1 and f"entry {LONG}: it cannot be read" in ran.err


def acknowledged(ledger: Ledger) -> Iterator[Delivery]:
    for delivery in ledger.subscribe("mailer", after=0, idle=2):
        delivery.ack()
        yield delivery


@pytest.mark.parametrize("index", ["one_entry_per_position", "audit_logs_by_actor"])
@pytest.mark.parametrize("name", ["zeros", "a header of ones"])
def test_a_page_of_an_index(damaged: Callable[..., Cluster], index: str, name: str) -> None:
    """A leaf. What is lost is lost from the index alone, and says so."""
    found = outcome(damaged(index, DAMAGES[name], 1))
    if isinstance(found, Report):
        assert any(index in each.detail for each in found.findings), found.findings
    else:
        assert "REINDEX" in found


@pytest.mark.parametrize("relation", ["one_entry_per_position", "tails"])
def test_a_first_page(damaged: Callable[..., Cluster], relation: str) -> None:
    """Of an index it is the root of all; of tails, all there is."""
    outcome(damaged(relation, DAMAGES["a header of ones"], 0))
