"""aics-witness from PyPI: our client with their witness, and their client with ours.

It needs Python 3.12. Where this interpreter does not have it, LEDGER_TEST_AICS names one that does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import WitnessRefused
from ledger.tlog.checkpoint import open_checkpoint
from ledger.tlog.witness_client import cosigned, demand, gather
from ledger.tlog.witness_outcome import Witness, WitnessOutcome
from tests.support.logs import Log
from tests.support.witnesses import forked, serving

LOG = Log(300)
FORK = forked(LOG, 100, 300)
PYTHON = sys.executable if find_spec("aics_witness") else os.environ.get("LEDGER_TEST_AICS")
pytestmark = pytest.mark.skipif(
    PYTHON is None,
    reason="aics-witness is not installed: pip install aics-witness into Python 3.12 or newer, and give that "
    "interpreter as LEDGER_TEST_AICS",
)

CLIENT = """
import json, sys
from aics_witness import FeederError, WitnessClient
said = json.load(sys.stdin)
proofs = {(old, new): list(map(bytes.fromhex, hashes)) for old, new, hashes in said["proofs"]}
outcomes = []
with WitnessClient(said["url"], said["vkey"], max_attempts=1) as client:
    for note in said["notes"]:
        try:
            outcomes.append(client.submit(note, lambda old, new: proofs[old, new]))
        except FeederError as error:
            outcomes.append(type(error).__name__)
json.dump(outcomes, sys.stdout)
"""


def aics(folder: Path, *arguments: str) -> list[str]:
    return [PYTHON or "", "-m", "aics_witness", *arguments, "--config", str(folder / "witness.json")]


@contextmanager
def their_witness(folder: Path) -> Iterator[Witness]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    init = aics(folder, "init", "--name", "witness.example/theirs", "--listen", f"127.0.0.1:{port}")
    made = subprocess.run(init, check=True, capture_output=True, text=True)
    (vkey,) = {word for word in made.stdout.split() if word.startswith("witness.example/theirs+")}
    add = aics(folder, "add-log", "--origin", LOG.signer.name, "--vkey", LOG.key.vkey)
    subprocess.run(add, check=True, capture_output=True)
    with (folder / "log").open("wb") as output, subprocess.Popen(aics(folder, "serve"), stderr=output) as serve:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield Witness.parse(f"http://127.0.0.1:{port}+{vkey}")
        finally:
            serve.terminate()


def ask(witness: Witness, log: Log, size: int) -> WitnessOutcome:
    (outcome,) = gather(log.note(size, 0), [witness], lambda old: log.consistency(old, size))
    return outcome


def test_our_client_and_their_witness(tmp_path: Path) -> None:
    with their_witness(tmp_path) as witness:
        for size in (1, 2, 255, 257, 257):
            outcome = ask(witness, LOG, size)
            assert outcome.kind == "cosigned", outcome
            note = cosigned(LOG.note(size, 0), [outcome])
            assert open_checkpoint(note, LOG.signer.name, [LOG.key], [witness.verifier], 1) == LOG.checkpoint(size)
        assert (ask(witness, LOG, 256).kind, ask(witness, LOG, 256).size) == ("ahead", 257)
        assert ask(witness, FORK, 257).kind == "forked"
        outcome = ask(witness, FORK, 300)
        assert outcome.kind == "forked"
        with pytest.raises(WitnessRefused):
            demand(FORK.note(300, 0), [witness], 1, [outcome])
        assert ask(witness, Log(5, "unknown"), 5).kind == "refused"
        assert ask(witness, LOG, 300).kind == "cosigned"


def test_their_client_and_our_witness(tmp_path: Path) -> None:
    sizes = (1, 2, 255, 256, 257, 300)

    def submitted(witness: Witness, log: Log, steps: list[int]) -> list[Any]:
        proofs = [(old, new, [hash.hex() for hash in log.consistency(old, new)])
                  for new in sizes for old in (0, *sizes) if old <= new]  # fmt: skip
        notes = [log.note(size, 0).decode() for size in steps]
        said = {"url": witness.url, "vkey": witness.verifier.vkey, "notes": notes, "proofs": proofs}
        ran = subprocess.run(
            [PYTHON or "", "-c", CLIENT], input=json.dumps(said), check=True, capture_output=True, text=True
        )
        return list(json.loads(ran.stdout))

    with serving(tmp_path / "state", LOG) as witness:
        cosignatures = submitted(witness, LOG, [1, 2, 255, 257, 257])
        assert all(each.startswith("— witness.example/w1 ") for each in cosignatures), cosignatures
        assert submitted(witness, LOG, [256]) == ["WitnessAhead"]
        assert submitted(witness, FORK, [257, 300]) == ["WitnessRejected", "WitnessRejected"]
        assert submitted(witness, LOG, [300])[0].startswith("— witness.example/w1 ")
