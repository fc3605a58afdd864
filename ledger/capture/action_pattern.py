"""The pattern of which a policy makes the actions of its entries: `invoice.{op}`. Pure."""

from __future__ import annotations

from typing import Final

from ledger.errors import UsageError

OP: Final = "{op}"
"""Stands for what was done."""


def check_action(pattern: str | None) -> None:
    """None stands for a policy's default. Raises UsageError for other braces, which are mistakes."""
    if pattern is not None and set("{}") & set(pattern.replace(OP, "")):
        raise UsageError(f"action may hold {OP!r} and no other braces: {pattern!r}")
