"""What the ledger's own entries say of others, followed over the whole chain: erasures, legal holds, skips.

A database and a bundle hand in the entries in the order of their positions, with what stands at the position that each
names (`OwnEntries`, pure). Kept meanwhile: the holds and skips that stand, no more. Of a database, plans look that up,
and compare the tables that keep it too (`beginning`, `follow`, `false_marks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ledger.effects import Plan, Query
from ledger.format import actions
from ledger.format.findings import Finding, Findings
from ledger.statements import sql
from ledger.store.stored_rows import Source

SQL = sql(__file__)


class CourseRule(NamedTuple):
    """What an own entry may say of others. The schema's functions record nothing else."""

    name: str
    demands: str

    def __str__(self) -> str:
        return f"{self.name}: {self.demands}"


ERASES_EARLIER = CourseRule("erases_earlier", "an erasure names an entry before it")
ERASES_NOT_OWN = CourseRule("erases_not_own", "an entry of the ledger's own is never erased")
ERASES_ONCE = CourseRule("erases_once", "an entry is erased once")
STAYS_ERASED = CourseRule("stays_erased", "a body that was erased stays away")
RESPECTS_HOLDS = CourseRule("respects_holds", "nothing is erased while a legal hold is on it")
HOLDS_EARLIER = CourseRule("holds_earlier", "a hold on an entry names one before it")
HOLDS_ONCE = CourseRule("holds_once", "a resource that is held is not held again")
RELEASES_HELD = CourseRule("releases_held", "only what is held is released")
SKIPS_EARLIER = CourseRule("skips_earlier", "a skip names an entry before it")
SKIPS_NO_ERASURE = CourseRule("skips_no_erasure", "no view leaves out an erasure")
SKIPS_ONCE = CourseRule("skips_once", "what a view leaves out is not skipped again")
RETRIES_SKIPPED = CourseRule("retries_skipped", "only what a view leaves out is taken back")


class OwnEntry(NamedTuple):
    """One of the ledger's own entries: what its envelope says."""

    position: int
    action: str
    resource_type: str | None
    resource_id: str | None

    @property
    def named(self) -> int | None:
        """The position of the entry that it is about; None if it is about none."""
        return actions.position_named(self.resource_type, self.resource_id)


class Target(NamedTuple):
    """An entry that an own one names. has_body: it was not erased, or is back. erased: where it was erased first."""

    action: str
    resource_type: str | None
    resource_id: str | None
    has_body: bool
    erased: int | None


_BEGINS = {actions.HOLD_PLACED: "hold", actions.SKIPPED: "skip"}
_ENDS = {actions.HOLD_RELEASED: "hold", actions.RETRIED: "skip"}
_EARLIER = {
    actions.ERASED: ERASES_EARLIER,
    actions.HOLD_PLACED: HOLDS_EARLIER,
    actions.SKIPPED: SKIPS_EARLIER,
}
_ONCE = {"hold": HOLDS_ONCE, "skip": SKIPS_ONCE}
_STANDING = {"hold": RELEASES_HELD, "skip": RETRIES_SKIPPED}


class OwnEntries:
    """Takes the own entries one by one.

    standing: the holds and skips of before the first. whole: are those all? Else what ends may have begun before.
    """

    def __init__(self, findings: Findings, standing: Iterable[OwnEntry] = (), *, whole: bool = True) -> None:
        self.findings = findings
        self.whole = whole
        self._standing = {
            (_BEGINS[entry.action], entry.resource_type, entry.resource_id): entry.position for entry in standing
        }

    def take(self, entry: OwnEntry, target: Target | None) -> None:
        """The next one. target: what stands at the position that it names, None if nothing does or none is named."""
        position, action, resource_type, resource_id = entry
        earlier = _EARLIER.get(action)
        if earlier is not None and entry.named is not None and entry.named >= position:
            self._broken(position, earlier, f"this one names {entry.named}")
        elif action == actions.ERASED and target is not None:
            self._erasure(position, entry.named or 0, target)
        elif action == actions.SKIPPED and target is not None and target.action == actions.ERASED:
            self._broken(position, SKIPS_NO_ERASURE, f"entry {entry.named} is one")
        if action in _BEGINS:
            kind = _BEGINS[action]
            before = self._standing.setdefault((kind, resource_type, resource_id), position)
            if before != position:
                self._broken(position, _ONCE[kind], f"that of entry {before} stands")
        elif action in _ENDS:
            kind = _ENDS[action]
            if self._standing.pop((kind, resource_type, resource_id), None) is None and self.whole:
                self._broken(position, _STANDING[kind], "none stands")

    def _erasure(self, position: int, erased: int, target: Target) -> None:
        if actions.is_own(target.action):
            self._broken(position, ERASES_NOT_OWN, f"entry {erased} is one ({target.action})")
            return
        if target.erased is not None and target.erased < position:
            self._broken(position, ERASES_ONCE, f"entry {target.erased} says so of entry {erased} before")
        elif target.has_body:
            self._broken(erased, STAYS_ERASED, f"entry {position} erased this one")
        # One with a resource_type of ledger.entry may be held as either; it is one hold all the same.
        for about in dict.fromkeys(((actions.ERASED_TYPE, str(erased)), (target.resource_type, target.resource_id))):
            held = self._standing.get(("hold", *about))
            if held is not None:
                self._broken(position, RESPECTS_HOLDS, f"entry {erased} was under that of entry {held}")

    def _broken(self, position: int, rule: CourseRule, why: str) -> None:
        self.findings.add(position, "rule_broken", f"{rule}; {why}")


# ----------------------------------------------------------------------------------------------------------- a database

_KEPT = frozenset((actions.HOLD_PLACED, actions.HOLD_RELEASED, actions.SKIPPED, actions.RETRIED))
"""Actions that a table of the ledger keeps too."""
_MOST = 1_000
"""Rows of such tables that are named; one finding is enough to damn the ledger."""


def beginning(source: Source, first: int, findings: Findings) -> Plan[OwnEntries]:
    """What own entries are judged by from position `first` on: what was held and left out there.

    That is taken from the tables: `false_marks` names what is in them and in no entry; what an entry before `first`
    says, and they have lost, only a verification from the first entry sees.
    """
    rows = (yield Query(SQL["standing"], (source.ledger_id, first, source.ledger_id, first))) if first > 1 else []
    return OwnEntries(findings, [OwnEntry(*row) for row in rows])


def follow(source: Source, own: OwnEntries, entries: list[OwnEntry]) -> Plan[None]:
    """The next own entries, in the order of their positions."""
    if not entries:
        return
    kept = [entry for entry in entries if entry.action in _KEPT]
    if kept:
        columns = map(list, zip(*kept, strict=True))
        for position, table in (yield Query(SQL["lost_marks"], (*columns, source.ledger_id, source.ledger_id))):
            own.findings.add(position, "unprotected", f"{table} does not have what this entry says")
    named = sorted(
        {each.named for each in entries if each.action in (actions.ERASED, actions.SKIPPED) and each.named is not None}
    )
    targets: dict[int | None, Target] = {}
    if named:
        resources = [str(position) for position in named]
        rows = yield Query(
            source.statement(SQL["first_erasures"]), (source.ledger_id, actions.ERASED_TYPE, resources, actions.ERASED)
        )
        erased = {int(resource_id): position for resource_id, position in rows}
        rows = yield Query(source.statement(SQL["targets"]), (source.ledger_id, named))
        for position, action, resource_type, resource_id, has_body in rows:
            targets[position] = Target(action, resource_type, resource_id, has_body, erased.get(position))
    for entry in entries:
        own.take(entry, targets.get(entry.named))


def false_marks(source: Source) -> Plan[list[Finding]]:
    """Holds and skips in the tables that no entries say."""
    rows = yield Query(source.statement(SQL["false_marks"]), (*[source.ledger_id] * 4, _MOST))
    return [
        Finding(position, "unprotected", f"{table} has what this entry should say, and no entries do")
        for table, position in rows
    ]
