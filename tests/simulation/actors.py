"""All that actors do, imported once by the process that they are forked from."""

from __future__ import annotations

import redis
import redis.asyncio  # noqa: F401

from tests.simulation.appenders import append, step_clock
from tests.simulation.readers import read_on
from tests.simulation.recorders import record
from tests.simulation.steward import sign, tend
from tests.simulation.transactions import transact
from tests.simulation.workers import project, relay, seal

__all__ = ["append", "project", "read_on", "record", "relay", "seal", "sign", "step_clock", "tend", "transact"]
