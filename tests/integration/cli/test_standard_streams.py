"""Standard streams in any state; escaped terminal controls; JSON in UTF-8 or ASCII."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ledger import Event, Ledger
from ledger.drivers.pools import Connector
from ledger.projection.base import find_projections
from ledger.stream.relay import Relay
from tests.support.cli import AUDITLEDGER, cli_of, run
from tests.support.views import project

HOSTILE = "user:\x1b[2J\x9b31m\x85\x7f\u202eevil\u2066\u2069\u200f\u061c\u2028\u00e9\U0001f600"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
NAME = HOSTILE.replace("\x1b", "").replace("\u2028", "").replace("\x85", "").replace("\x9b", "").replace("\x7f", "")
"""What is left of it where controls are not allowed."""


@pytest.fixture
def hostile(ledger: Ledger) -> Ledger:
    """A ledger with an entry whose texts want to rewrite the reader's terminal, in all views."""
    said = {"name": HOSTILE, "ok": 1}
    actor = HOSTILE
    try:
        ledger.append(Event(actor, "a.b", "thing", "t"))
    except Exception:  # the format refuses controls in keys
        actor = NAME
    ledger.append(Event(actor, "thing.made", "thing", actor, before={}, after=said, metadata=said))
    servers = Connector(ledger.settings)
    Relay(servers).publish()
    servers.close()
    project(ledger, find_projections())
    return ledger


def shell(line: str, ledger: Ledger, **environment: str) -> tuple[int, bytes, bytes]:
    settings = ledger.settings
    urls = {"LEDGER_DATABASE_URL": settings.database_url or "", "LEDGER_REDIS_URL": settings.redis_url or ""}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        ["bash", "-c", line.replace("auditledger", shlex.quote(AUDITLEDGER))],
        env=kept | urls | environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done
    return done.returncode, done.stdout, done.stderr


READS = [
    *("tail", "query", "query --text evil", "activity", "status", "doctor", "verify", "prove 1 || true"),
    f"history {shlex.quote('thing:' + NAME)}",
    f"state {shlex.quote('thing:' + NAME)}",
    f"erase 9999 --actor {shlex.quote(NAME)} --reason x || true",
    f"query --actor {shlex.quote(NAME)}",
    f"parked {shlex.quote(NAME)} || true",
]


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     {"PYTHONIOENCODING": "latin1"}],
    ids=["utf8", "c", "latin1"],
)  # fmt: skip
def test_no_output_steers_a_terminal(hostile: Ledger, environment: dict[str, str]) -> None:
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    for command in READS:
        _, out, err = shell(f"auditledger {command}", hostile, **environment)
        assert not STEERING.search(err.decode(encoding)), (command, err)
        assert command.startswith("prove") or not STEERING.search(out.decode(encoding)), (command, out)
        _, out, err = shell(f"auditledger --json {command}", hostile, **environment)
        assert not STEERING.search(out.decode()) and not STEERING.search(err.decode(encoding)), (command, out, err)
        for line in out.splitlines():
            json.loads(line)


def test_json_says_the_same_in_every_encoding(hostile: Ledger) -> None:
    for encoding in ("utf-8", "latin1", "ascii", "utf-16", "cp1252"):
        _, out, _ = shell("auditledger --json tail -n 1", hostile, PYTHONIOENCODING=encoding)
        assert json.loads(out)["after"]["name"] == HOSTILE


@pytest.mark.parametrize("encoding", ["utf-8", "latin1", "ascii"])
def test_json_log_lines(hostile: Ledger, encoding: str) -> None:
    line = f"auditledger project {shlex.quote(NAME)} --once --log-format json"
    code, _, err = shell(line, hostile, PYTHONIOENCODING=encoding)
    assert code == 2
    for each in err.decode(encoding).splitlines():
        assert not STEERING.search(each)
        json.loads(each)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full", ">&- 2>/dev/full"])
def test_closed_streams_are_no_faults(ledger: Ledger, closed: str) -> None:
    ledger.append(Event("user:1", "a.b"))
    for command in ("verify", "--json verify", "--help", "--version", "tail", "relay --once"):
        code, out, err = shell(f"auditledger {command} {closed}", ledger)
        assert code == 0, (command, out, err)


def test_the_exit_code_is_that_of_the_command(ledger: Ledger) -> None:
    for closed in (">&-", "2>&-", "<&-", "2>/dev/full"):
        assert shell(f"auditledger verify --from nonsense {closed}", ledger)[0] == 2
        assert shell(f"auditledger --database-url postgresql://127.0.0.1:1/x verify {closed}", ledger)[0] == 3
    for closed in ("<&-",):
        for command in ("import -", "check - --key x", "verify --checkpoint - --key x"):
            code, _, err = shell(f"auditledger {command} {closed}", ledger)
            assert code == 2 and b"error: " in err, err


def test_a_full_disk_is_said_and_is_no_fault(ledger: Ledger) -> None:
    ledger.append(Event("user:1", "a.b"))
    said = b"error: the output cannot be written: No space left on device; changes that the command made stay\n"
    for command in ("--help", "--version", "--json verify", "verify", "tail"):
        code, _, err = shell(f"auditledger {command} >/dev/full", ledger)
        noted = b"Users who bypass privilege checks: " if command == "verify" else b""
        assert code == 3 and err.endswith(said) and err.removesuffix(said).startswith(noted), err
        assert noted or err == said


def test_a_receipt_that_cannot_be_printed_is_recorded_once(ledger: Ledger) -> None:
    assert shell("auditledger append --actor a --action b.c >/dev/full", ledger)[0] == 3
    assert shell("auditledger append --actor a --action b.c >&-", ledger)[0] == 0
    assert ledger.tail().position == 2


def test_broken_pipes(ledger: Ledger) -> None:
    ledger.append_many(Event("user:1", "a.b", after={"n": n}) for n in range(3000))
    for command in ("tail --from 1", "--json tail --from 1"):
        code, out, err = shell(f"set -o pipefail; auditledger {command} | head -1", ledger)
        assert code == 141 and out.count(b"\n") == 1 and not err
    code, _, _ = shell("set -o pipefail; auditledger verify 2>&1 >/dev/null | true", ledger)
    assert code == 0


def test_a_descriptor_that_was_closed_is_not_given_to_a_socket(ledger: Ledger, tmp_path: Path) -> None:
    """Else what is printed would be sent to Postgres."""
    code, _, _ = shell("auditledger import - 2>&- >&- < /dev/null", ledger)
    assert code == 0
    ran = cli_of(ledger)("verify")
    assert ran.code == 0
    assert run("--version").code == 0
