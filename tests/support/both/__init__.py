"""The same by the native core and by the Python of ledger/format, compared; each fails where the two differ.

drafts      an event made ready for the chain
checks      stored rows as `verify` checks them
published   stored rows as the relay publishes them
messages    rows of any bytes, which no one of the core's may panic at
entries     stored rows, and entries of the stream, as readers get them
"""

import pytest

from ledger.format import native

needs_core = pytest.mark.skipif(native.core is None, reason=f"there is no native core to compare: {native.CORE}")
