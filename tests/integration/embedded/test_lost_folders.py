"""Embedded servers whose folder was deleted, moved or replaced: none is left over, none is doubled."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger import Event, Ledger, embedded
from ledger.embedded.host import all_marked
from ledger.errors import InvalidSetting
from tests.support.embedded_homes import PROC, ROOT, delete, pids, remove

pytestmark = pytest.mark.skipif(not PROC, reason="only /proc tells working directories")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """With a space and letters beyond ASCII in its path."""
    yield (path := tmp_path / "Käufe 2026 №" / ".ledger")
    remove(path)


def alive(*pids: int) -> list[int]:
    return [pid for pid in pids if pid in {each.pid for each in all_marked()}]


def of(home: Path) -> list[int]:
    """Every server that was ever started for a folder below here."""
    return sorted(each.pid for each in all_marked() if each.folder.startswith(str(home)))


def opened(home: Path) -> None:
    with Ledger.open(home=home) as ledger:
        ledger.append(Event("user:1", "a.b"))


def up(home: Path) -> None:
    embedded.start(home)


def down(home: Path) -> None:
    assert embedded.stop(home)


@pytest.mark.parametrize("then", [up, down, opened])
def test_a_deleted_home_leaves_no_server(home: Path, then: Callable[[Path], None]) -> None:
    embedded.start(home)
    first = pids(home)
    delete(home)
    assert first[1] in alive(*first)  # Valkey does not notice; Postgres does within a minute
    then(home)
    assert not alive(*first)
    if then is not down:
        assert of(home) == sorted(pids(home))
    assert embedded.stop(home) == (then is not down)
    assert not of(home)


def test_a_deleted_parent_and_a_folder_emptied(home: Path) -> None:
    embedded.start(home)
    delete(home.parent)
    assert embedded.stop(home)
    assert not of(home)
    embedded.start(home)
    first = pids(home)
    delete(home / "valkey")
    delete(home / "postgres")
    (home / "servers.json").unlink()
    embedded.start(home)
    assert not alive(*first)


def test_a_moved_home_keeps_its_servers(home: Path) -> None:
    servers = embedded.start(home)
    first = pids(home)
    moved = home.with_name("moved")
    home.rename(moved)
    try:
        assert embedded.running(moved) == servers == embedded.start(moved)
        assert not embedded.stop(home)
        embedded.start(home)  # another one in its old place harms neither
        assert alive(*first) == list(first) and pids(home) != first
        assert embedded.stop(home)
        assert embedded.running(moved) == servers
        delete(moved)
        assert embedded.stop(moved)
        assert not of(home)
    finally:
        remove(moved)


def test_a_home_replaced_by_a_link(home: Path) -> None:
    servers = embedded.start(home)
    elsewhere = home.with_name("elsewhere")
    home.rename(elsewhere)
    home.symlink_to(elsewhere)
    assert embedded.running(home) == embedded.start(home) == servers
    assert embedded.stop(home)
    assert not of(home)


def test_a_deleted_pid_file_does_not_double_a_server(home: Path) -> None:
    servers = embedded.start(home)
    first = pids(home)
    (home / "valkey/valkey.pid").unlink()
    assert embedded.running(home) == embedded.start(home) == servers
    assert of(home) == sorted(first)
    assert embedded.stop(home)
    assert not of(home)


def test_other_homes_and_strangers_are_left_alone(home: Path) -> None:
    other = home.with_name(f"{home.name}2")  # whose name begins like this one's
    embedded.start(other)
    embedded.start(home)
    delete(home)
    stranger = subprocess.Popen(["sleep", "60"], cwd=home.parent)
    try:
        assert embedded.stop(home)
        assert stranger.poll() is None
        assert of(other) == sorted(pids(other))
    finally:
        stranger.kill()
        stranger.wait()
        remove(other)


@pytest.mark.skipif(not ROOT, reason="only root gives folders away")
def test_as_another_account(tmp_path: Path) -> None:
    """An account that cannot use the folder is told so; what root may not see, the servers' own account tells."""
    home = tmp_path / "home"
    embedded.start(home)
    try:
        code = (
            "import os, sys, pathlib; from ledger import embedded, errors; os.setgid(65534); os.setuid(65534)\n"
            "try: embedded.running(pathlib.Path(sys.argv[1]))\n"
            "except errors.InvalidSetting as error: print(error)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, home],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "cannot be used" in ran.stdout and "ermission denied" in ran.stdout, ran
        without = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
        stop = "import sys, pathlib; from ledger import embedded; print(embedded.stop(pathlib.Path(sys.argv[1])))"
        delete(home)
        ran = subprocess.run(
            [*without, sys.executable, "-c", stop, home],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stdout == "True\n", ran
        time.sleep(0.1)
        assert not of(home)
    finally:
        remove(home)


def test_a_leftover_that_has_lost_its_passwords_says_what_to_do(home: Path) -> None:
    embedded.start(home)
    (home / "servers.json").unlink()
    with pytest.raises(InvalidSetting, match="remove the folder"):
        embedded.start(home)
    assert embedded.stop(home)
