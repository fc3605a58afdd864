"""Fixtures on real servers: one pair for the whole run, a database for each test, a Redis database for each worker.

The pair is started by whichever worker needs it first and stopped by a guard, a small process that waits for the end of
the run: it sees that end however it comes, kill -9 included.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import psycopg
import pytest
from ledger_projections import Timeline

from ledger import Ledger, embedded, testing
from ledger.drivers.connections import create_redis_connection
from ledger.errors import InvalidSetting
from ledger.migrate.migrate import migrate
from ledger.settings import Settings
from tests.support.api import Api, AsyncApi, Opener, SyncApi
from tests.support.clusters import Cluster, Clusters, clusters_folder
from tests.support.failing_projection import POISON, Picky, poisoned
from tests.support.helpers import OwnServers, copy_home
from tests.support.logins import Logins, logins
from tests.support.procedures import Perform
from tests.support.views import projector, some_events

# A slow or busy machine is no fault of what is tested. All else stays as it is, in CI or not.
hypothesis.settings.register_profile("any machine", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("any machine")

ROOT = Path(__file__).parent.parent
RUN = pytest.StashKey[Path]()
CLEANUP = pytest.StashKey[ExitStack]()

_GUARD = """
import shutil, sys
from pathlib import Path
sys.stdin.read()
run = Path(sys.argv[1])
if (run / "servers").exists():
    from ledger import embedded
    embedded.stop(run / "servers")
shutil.rmtree(run, ignore_errors=True)
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """In the process that leads the run: its folder, a guard over it, and Docker's containers where they are wanted."""
    # A run in the background of a shell ignores Ctrl-C, and so would every process that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config = session.config
    if hasattr(config, "workerinput"):
        config.stash[RUN] = Path(config.workerinput["run"])
        return
    run = config.stash[RUN] = Path(tempfile.mkdtemp(prefix="auditledger-tests-"))
    cleanup = config.stash[CLEANUP] = ExitStack()
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(run)], stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True
    )
    cleanup.callback(guard.communicate)
    if testing.given() is None and testing.wants_docker() and not config.option.collectonly:
        containers = cleanup.enter_context(testing.docker())
        os.environ["LEDGER_TEST_DATABASE_URL"] = containers.database_url
        os.environ["LEDGER_TEST_REDIS_URL"] = containers.redis_url


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """pytest-xdist, before it starts a worker."""
    node.workerinput["run"] = str(node.config.stash[RUN])  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    if CLEANUP in config.stash:
        config.stash[CLEANUP].close()


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> None:
    """What the developer's shell says about ledgers is none of the tests' business, but for which core runs: the
    processes that tests start have it too."""
    for name in [name for name in os.environ if name.startswith("LEDGER_") and not name.startswith("LEDGER_TEST_")]:
        if name != "LEDGER_NATIVE":
            del os.environ[name]


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> testing.TestServers:
    """The run's Postgres (as superuser) and Redis. Shared with other workers: do not stop, restart or FLUSHALL them."""
    return testing.given() or testing.start_embedded(pytestconfig.stash[RUN] / "servers")


@pytest.fixture(scope="session")
def template(servers: testing.TestServers) -> Iterator[str]:
    """The name of a migrated database to copy: quicker than migrating one for each test."""
    with testing.database(servers.database_url) as url:
        migrate(Settings(database_url=url))
        yield url.rpartition("/")[2]


@pytest.fixture
def database_url(servers: testing.TestServers) -> Iterator[str]:
    """A fresh, EMPTY database."""
    with testing.database(servers.database_url) as url:
        yield url


@pytest.fixture
def migrated_url(servers: testing.TestServers, template: str) -> Iterator[str]:
    """A fresh database with the schema and an empty ledger `main`."""
    with testing.database(servers.database_url, template=template) as url:
        yield url


@pytest.fixture
def redis_url(servers: testing.TestServers, pytestconfig: pytest.Config) -> str:
    """This worker's logical Redis database, flushed."""
    worker = getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0")
    url = testing.redis_database(servers.redis_url, int(worker.removeprefix("gw")))
    with create_redis_connection(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def ledger(migrated_url: str, redis_url: str) -> Iterator[Ledger]:
    """An open Ledger `main` on `migrated_url` and `redis_url`."""
    with Ledger.open(database_url=migrated_url, redis_url=redis_url) as opened:
        yield opened


@pytest.fixture
def stuck(ledger: Ledger) -> Ledger:
    """`ledger` with ten entries, of which the projection Picky could not apply the sixth; Timeline has all."""
    ledger.append_many([*some_events(5), POISON, *some_events(4)])
    with projector(ledger, [Picky(poisoned), Timeline()]) as running:
        running.catch_up()
        assert len(running.failed) == 1
    return ledger


@pytest.fixture
def login(migrated_url: str) -> Iterator[Logins]:
    """Makes logins with roles of the ledger for `migrated_url`; gives their URLs."""
    with logins(migrated_url) as made:
        yield made


@pytest.fixture
def roles() -> tuple[str, ...]:
    """What an application may do: append and read. A test module may ask for more."""
    return ("ledger_writer", "ledger_reader")


@pytest.fixture(params=[SyncApi, AsyncApi], ids=["sync", "async"])
def opener(request: pytest.FixtureRequest, login: Logins, roles: tuple[str, ...]) -> Iterator[Opener]:
    """Opens Ledgers and AsyncLedgers on `migrated_url` behind one face: a test that takes it runs once for each.

    As a login with `roles`.
    """
    with Opener(request.param, Settings(database_url=login(*roles))) as opened:
        yield opened


@pytest.fixture
def api(opener: Opener) -> Api:
    """An open Ledger, then an open AsyncLedger `main`."""
    return opener()


@pytest.fixture
def admin(migrated_url: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection of a superuser to `migrated_url`, the database of `ledger`."""
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def _own_pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped home to copy: quicker than creating a cluster for each test."""
    home = tmp_path_factory.mktemp("pattern") / "home"
    try:
        embedded.start(home)
    except InvalidSetting as error:
        pytest.skip(f"needs embedded servers of its own: {error}")
    embedded.stop(home)
    return home


@pytest.fixture
def own_servers(_own_pattern: Path, tmp_path: Path) -> Iterator[OwnServers]:
    """A running embedded pair of the test's own, to kill, restart and FLUSHALL. Its database `ledger` is EMPTY."""
    home = tmp_path / "own"
    copy_home(_own_pattern, home)
    own = OwnServers(home)
    try:
        own.start()
        yield own
    finally:
        own.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def _clusters() -> Iterator[Clusters]:
    with clusters_folder() as made:
        yield made


@pytest.fixture
def clusters(_clusters: Clusters) -> Iterator[Clusters]:
    """Makes Postgres servers of the test's own, with all of Postgres' tools: see tests/support/clusters.py."""
    yield _clusters
    _clusters.end()


@pytest.fixture
def perform(request: pytest.FixtureRequest, tmp_path: Path, clusters: Clusters) -> Iterator[Perform]:
    """Runs the commands of docs/operations.md that the test is marked with."""
    performing = Perform(request.function.headings, tmp_path, clusters)
    yield performing
    assert performing.left() == [], "commands under the test's headings that it did not run"


@pytest.fixture
def primary(clusters: Clusters) -> Cluster:
    """With a migrated database `ledger`."""
    cluster = clusters.new("primary")
    migrate(Settings(database_url=cluster.create()))
    return cluster
