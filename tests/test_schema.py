"""The database itself refuses what an append-only chain must not see, and says why; its names are the contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ledger import Ledger, chain
from ledger.errors import UnknownLedger
from ledger.events import Tail
from ledger.store import _insert_params
from ledger.writer import prepare
from tests.support import checked, event, events, numbers
