"""The native core against the Python of ledger/format, which is the reference. Skipped without the core."""

from __future__ import annotations

import pytest

from ledger.format import native


@pytest.fixture(autouse=True)
def _core() -> None:
    if native.core is None:
        pytest.skip(f"there is no native core to compare: {native.CORE}")
