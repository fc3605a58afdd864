"""One reader with a backlog, as a process of its own: `python -m tests.support.backlog PART`. Prints what it
took, in JSON.

The URLs come from LEDGER_*. `peak` is the most memory that it had, in MiB; `count` how many entries it came to.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from ledger_projections import ActorActivity, Timeline

from ledger import AsyncLedger, Ledger
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from ledger.settings import Settings
from ledger.stream.relay import Relay


def relay() -> int:
    return Relay(Connector(Settings.load())).publish()


def seal() -> int:
    return Sealer(Connector(Settings.load())).seal()


def project() -> int:
    projector = Projector(Connector(Settings.load()), [Timeline(), ActorActivity()])
    projector.install()
    return projector.catch_up()


def replay() -> int:
    return rebuild(Settings.load(), ActorActivity())


def follow() -> int:
    with Ledger.open() as ledger:
        return sum(1 for _ in ledger.follow(after=0, idle=1))


def follow_async() -> int:
    async def count() -> int:
        async with AsyncLedger.open() as ledger:
            return len([None async for _ in ledger.follow(after=0, idle=1)])

    return asyncio.run(count())


def read() -> int:
    with Ledger.open() as ledger:
        return sum(1 for _ in ledger.read())


def subscribe() -> int:
    count = 0
    with Ledger.open() as ledger:
        for delivery in ledger.subscribe("backlog", after=0, idle=1):
            delivery.ack()
            count += 1
    return count


PARTS: dict[str, Callable[[], int]] = {
    part.__name__: part for part in (seal, relay, project, replay, follow, follow_async, read, subscribe)
}


def main() -> None:
    count = PARTS[sys.argv[1]]()
    print(json.dumps({"count": count, "peak": peak()}))


def peak() -> int:
    """In MiB. What Linux says by getrusage may be that of the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) // 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // (1024 * 1024 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
