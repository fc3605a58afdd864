"""What a check found wrong."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """kind: lost, doubled, misordered, false (a receipt that names what is not so), other."""

    kind: str
    text: str
