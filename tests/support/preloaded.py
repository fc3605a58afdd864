"""A WSGI application as gunicorn loads it: its ledger is open, and used, before the workers are forked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from ledger import Event, Ledger

ledger = Ledger.open()
before = ledger.append(Event("svc:web", "app.loaded"))


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Appends an entry and answers with the worker's process id and the receipt."""
    receipt = ledger.append(Event("svc:web", "page.served"))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), receipt.position, str(receipt.id), receipt.hash.hex()]).encode()]
