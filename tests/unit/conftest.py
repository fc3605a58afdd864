"""No test here may have a server: whatever asks for one belongs into tests/integration/."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def servers() -> None:
    pytest.fail("a test in tests/unit/ wants servers: move it to tests/integration/")
