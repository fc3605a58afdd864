"""What of a mapped class is captured, and how it is recorded. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from ledger.capture.action_pattern import check_action
from ledger.errors import UsageError

CREATED: Final = "created"
UPDATED: Final = "updated"
DELETED: Final = "deleted"


class Change(NamedTuple):
    """A change as `Policy.when` sees it: not redacted yet.

    op: created, updated, deleted, or NAME.changed for a many-to-many relationship NAME. before, after: by column name,
    as they are recorded; empty if the row was not there. Of an update the changed columns only, unless the policy
    is `full`.
    """

    op: str
    resource_type: str
    resource_id: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the rows of a mapped class, and of classes that inherit from it, are recorded.

    action: `{op}` stands for created, updated, deleted or NAME.changed; by default `TABLE.{op}`.
    resource_type: by default the table's name.
    key: columns whose values are the resource_id; by default the primary key.
    exclude, redact, digest, allow: columns by their own name or that of their attribute, and keys inside of JSON
    values, as `ledger.capture.redaction.Redaction` takes them. A change of excluded columns only is not recorded.
    when: is asked for each change; what it answers False to is not recorded.
    full: record all columns in `before` and `after` of an update, not only changed ones.
    no_actor: without an actor in the context, `require` raises InvalidEvent, `unknown` records the actor `unknown`.
    """

    action: str | None = None
    resource_type: str | None = None
    key: Collection[str] = ()
    exclude: Collection[str] = ()
    redact: Collection[str] = ()
    digest: Collection[str] = ()
    allow: Collection[str] = ()
    when: Callable[[Change], bool] | None = None
    full: bool = False
    no_actor: Literal["require", "unknown"] = "require"

    def __post_init__(self) -> None:
        for name in ("key", "exclude", "redact", "digest", "allow"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if self.no_actor not in ("require", "unknown"):
            raise UsageError(f"no_actor must be 'require' or 'unknown', not {self.no_actor!r}")
        check_action(self.action)
