"""What `doctor` reports: checks, and the diagnosis that they make up."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from ledger.ops.status_types import NOT_SET, OK

Level: TypeAlias = Literal["ok", "warning", "danger", "unknown"]
"""danger: a risk to integrity or durability. warning: a misconfiguration, or lag. unknown: a server is unreachable, or
the database user may not see it."""


class Check(NamedTuple):
    """The result of one check. found: the observed state. advice: what to do, None if nothing is."""

    name: str
    level: Level
    found: str
    advice: str | None = None


class Diagnosis(NamedTuple):
    """All checks. postgres, redis: `ok`, `not set`, or why the server is unreachable."""

    postgres: str
    redis: str
    checks: tuple[Check, ...]

    @property
    def unreachable(self) -> bool:
        return self.postgres != OK or self.redis not in (OK, NOT_SET)

    @property
    def danger(self) -> bool:
        return any(check.level == "danger" for check in self.checks)
