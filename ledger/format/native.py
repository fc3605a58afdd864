"""The native core (the distribution auditledger-native), if it is installed. Pure.

It makes the same bytes as the Python of this room, which is the reference, and leaves to that whatever it cannot take
the quick way. LEDGER_NATIVE=0 turns it off. A core that agreed on something else with another version of this
distribution is not used.
"""

from __future__ import annotations

import os
from datetime import UTC
from typing import Any
from uuid import UUID, SafeUUID

from ledger.events import Entry, Event, Receipt
from ledger.format.json_text import encode

INTERFACE = 2
"""The version of what both sides agree on."""


def _load() -> tuple[Any, str]:
    """The module, or None; and what is to be said of it."""
    if os.environ.get("LEDGER_NATIVE") == "0":
        return None, "Python (LEDGER_NATIVE=0)"
    try:
        import ledger_native  # noqa: PLC0415 - it may be missing
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "ledger_native":
            return None, "Python (auditledger-native is not installed)"
        return None, f"Python (auditledger-native cannot be loaded: {error})"
    # A folder of that name, such as an uninstallation may leave behind, is a module too, with nothing in it.
    if getattr(ledger_native, "INTERFACE", None) != INTERFACE:
        version = getattr(ledger_native, "VERSION", "without a version")
        return None, f"Python (auditledger-native {version} does not fit this version of auditledger)"
    return ledger_native, f"native (auditledger-native {ledger_native.VERSION})"


core, CORE = _load()
"""The module, None without it; and which core runs, in words: "native (…)" or "Python (why)"."""
encoder: Any = None
entries: Any = None
if core is not None:
    encoder = core.Encoder(Event, UUID, Receipt, UTC, encode)
    entries = core.Entries(Entry, UUID, SafeUUID.unknown)
Links: Any = () if core is None else core.Links
ChainedDraft: Any = () if core is None else core.ChainedDraft
"""The core's types, for isinstance: nothing is one of them without it."""
