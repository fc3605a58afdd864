"""Damaged files of Postgres: verify names the entries, or reports what is unreadable (exit code 3)."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg
import pytest

from ledger import Ledger
from ledger.errors import Unavailable
from ledger.format.findings import Report
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from ledger.verify import database
from tests.support.cli import Cli
from tests.support.clusters import Cluster, Clusters, clusters_folder
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
    positions = {each.position for each in found.findings} - {None}
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
    assert {each.position for each in found.findings} - {None} == set(whole.positions[max(whole.positions)])


def test_all_pages(whole: Whole, damaged: Callable[..., Cluster]) -> None:
    found = outcome(damaged("audit_logs", DAMAGES["zeros"], *whole.positions))
    assert isinstance(found, Report) and len(found.findings) >= ENTRIES


@pytest.mark.parametrize("name", ["zeros", "rows of noise"])
def test_a_body_that_is_stored_apart(damaged: Callable[..., Cluster], name: str) -> None:
    found = outcome(damaged("toast", DAMAGES[name], 0, 1))
    assert isinstance(found, Report), found
    assert [each.position for each in found.findings] == [LONG]
    assert found.findings[0].kind in ("unreadable", "body_mismatch")


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
