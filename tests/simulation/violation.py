"""What a check found wrong."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """kind: lost, doubled, misordered, other."""

    kind: str
    text: str
