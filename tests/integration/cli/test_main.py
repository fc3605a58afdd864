"""The command line as a whole: help, exit codes, one-line errors, secrets, pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.drivers.connections import create_redis_connection
from tests.support.cli import cli_of, ended, process, run
from tests.support.helpers import event, events

COMMANDS = [
    "up",
    "down",
    "migrate",
    "create",
    "grant",
    "revoke",
    "append",
    "import",
    "keygen",
    "checkpoint",
    "rotate-key",
    "relay",
    "project",
    "run",
    "tail",
    "query",
    "history",
    "state",
    "activity",
    "replay",
    "salvage",
    "verify",
    "export",
    "status",
    "doctor",
    "witness",
    "demo",
]


# -------------------------------------------------------------------------------------------------------------- tests


def test_help_names_every_command() -> None:
    ran = run("--help")
    assert ran.code == 0 and not ran.err
    assert set(COMMANDS) <= set(re.findall(r"^  ([a-z-]+)  ", ran.out, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0 and not ran.err
    assert ran.out.startswith(f"Usage: auditledger {command}")


def test_no_command_prints_help_and_is_wrong_use() -> None:
    ran = run()
    assert ran.code == 2 and not ran.out and "append" in ran.err


def test_version() -> None:
    assert re.fullmatch(r"auditledger \d+\.\d+\.\d+\ncore: (native|Python) \(.+\)\n", run("--version").out)


WRONG_USE = (
    "nonsense|--nonsense|tail --nonsense|tail extra|tail -n x|tail --from 0|verify --workers 0|append|create|"
    "import f --format xml|replay|replay --all timeline|query --limit 0|history|state invoice|relay extra"
)


@pytest.mark.parametrize("line", WRONG_USE.split("|"))
def test_wrong_use(line: str) -> None:
    ran = run(*line.split())
    assert ran.code == 2 and not ran.out
    assert ran.error


def test_a_password_in_a_misplaced_url_is_not_repeated() -> None:
    for arguments in (
        ["tail", "postgresql://me:s3cret@db/x"],
        ["postgresql://me:s3cret@db/x"],
        ["create", "a:s3cret@b"],
    ):
        assert "postgresql://me:s3cret" not in run(*arguments).err


def test_a_fault_of_the_program_is_one_line_and_70(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("lost postgresql://me:s3cret@db/x\nand more")

    monkeypatch.setattr("ledger.cli.commands.servers.embedded.stop", fault)
    ran = run("down")
    assert ran.code == 70
    assert ran.error.startswith("RuntimeError: lost postgresql://…@db/x and more")
    assert "LEDGER_DEBUG=1" in ran.error
    monkeypatch.setenv("LEDGER_DEBUG", "1")
    ran = run("down")
    assert "Traceback" in ran.err and "s3cret" not in ran.err


def test_global_options_stand_before_or_after_the_command(ledger: Ledger) -> None:
    ledger.append(event())
    url = ledger.settings.database_url or ""
    before = run("--database-url", url, "--json", "tail")
    after = run("tail", "--json", "--database-url", url)
    assert before.code == after.code == 0
    assert before.json == after.json


def test_what_a_terminal_needs_is_loaded_only_then() -> None:
    script = "import sys, ledger.cli; ledger.cli.main(['--help']); sys.exit('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error(ledger: Ledger) -> None:
    ledger.append_many(events(5000))
    with process(*cli_of(ledger).urls, "--json", "tail", "--from", "1") as popen:
        assert popen.stdout is not None
        assert json.loads(popen.stdout.readline())["position"] == 1
        popen.stdout.close()
        assert popen.stderr is not None
        assert popen.stderr.read() == ""
        assert popen.wait(30) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full, process("--help", stdout=full) as popen:
        ran = ended(popen)
    said = "error: the output cannot be written: No space left on device; changes that the command made stay\n"
    assert (ran.code, ran.err) == (3, said)


def test_ctrl_c_is_quiet(ledger: Ledger) -> None:
    ledger.append(event())
    with process(*cli_of(ledger).urls, "tail", "--follow", "--json") as popen:
        assert popen.stdout is not None
        assert json.loads(popen.stdout.readline())["position"] == 1
        ledger.append(event(1))
        assert json.loads(popen.stdout.readline())["position"] == 2
        popen.send_signal(signal.SIGINT)
        ran = ended(popen)
    assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_data_that_lies_is_exit_1_whatever_the_command(ledger: Ledger) -> None:
    ledger.append(event())
    with create_redis_connection(ledger.settings.redis_url or "") as redis:
        redis.xadd("ledger:{main}:entries", {"envelope": "{}", "body": "", "hash": "00"}, id="1-7")
    cli = cli_of(ledger)
    ran = cli("relay", "--once")
    assert ran.code == 1
    assert "diverged" in ran.error
    assert cli.well("relay", "--once", "--new-epoch").out == "Published 1 entry\n"
    status = cli.well("status", "--json").json["ledgers"][0]
    assert (status["epoch"], status["stream"]["position"], status["stream"]["diverged"]) == (2, 1, False)


def test_output_is_utf8_or_escaped_whatever_the_locale(ledger: Ledger) -> None:
    ledger.append(event(actor="käthe", after={"text": "日本 \x1b[2J \u202e"}))
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with process(*cli_of(ledger).urls, "tail", env=environment) as popen:
        ran = ended(popen)
    assert ran.code == 0
    assert "k\\xe4the" in ran.out
    assert "\x1b" not in ran.out and "\u202e" not in ran.out
