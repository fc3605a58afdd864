"""Runs jobs in a process of their own. One that is killed is followed by a fresh one."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any, NamedTuple

from ledger import telemetry
from tests.faults.crashing.effects import Effects, Fault, Seen
from tests.faults.crashing.jobs import Job

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60
"""Seconds after which a job that hangs is killed."""


class Ended(NamedTuple):
    """How a job ended: killed by its fault, or well. struck: the effect that was. told: what was handed out."""

    killed: bool
    effects: list[Seen]
    struck: Seen | None
    told: list[tuple[Any, ...]]


class Crashes:
    """Runs jobs one after the other."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-B", "-c", "from tests.faults.crashing.processes import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def run(self, job: Job, fault: Fault | None = None) -> Ended:
        """Raises AssertionError, with what the job said, where it ended otherwise than well or by its fault."""
        to, answers = _open(self._server.stdin), _open(self._server.stdout)
        pickle.dump((job, fault), to)
        to.flush()
        effects: list[Seen] = []
        struck: Seen | None = None
        told: list[tuple[Any, ...]] = []
        while True:
            kind, what = pickle.load(answers)  # noqa: S301
            match kind:
                case "effect":
                    effects.append(what)
                case "lasting":
                    effects[what - 1] = effects[what - 1]._replace(lasting=True)
                case "struck":
                    struck = what
                case "told":
                    told.append(what)
                    effects[-1] = effects[-1]._replace(handed_out=True)
                case _:
                    killed = kind == "died" and what == -signal.SIGKILL and struck is not None
                    assert killed or kind == "well", f"{job.name} {kind}: {what}"
                    return Ended(killed, effects, struck, told)

    def close(self) -> None:
        for pipe in (self._server.stdin, self._server.stdout):
            _open(pipe).close()
        self._server.wait()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def serve() -> None:
    """One worker after the other, each forked with everything imported that takes long, until stdin ends."""
    from tests.faults.crashing import appending, migrating, publishing, sealing, signing, viewing  # noqa: F401

    telemetry.span("none")  # looks for OpenTelemetry
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    while True:
        pid = os.fork()
        if pid == 0:
            _work(answers)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return
        answers.write(pickle.dumps(("died", os.waitstatus_to_exitcode(status))))


def _work(answers: Any) -> None:
    """Runs what comes on stdin until that ends, or until it is killed. Never returns."""

    def say(kind: str, what: Any) -> None:
        answers.write(pickle.dumps((kind, what)))

    effects = Effects(say)
    try:
        while True:
            job, fault = pickle.load(sys.stdin.buffer)  # noqa: S301
            signal.alarm(TIMEOUT_SECONDS)
            effects.begin(job.folder, fault)
            try:
                job.run(lambda *what: say("told", what))
            except Exception:
                say("failed", traceback.format_exc())
            else:
                say("well", None)
    except EOFError:
        os._exit(0)
    finally:
        os._exit(1)
