"""Checks a bundle with no database: the same rules as for a ledger in its database (format.md, "Bundle")."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import zip_longest
from pathlib import Path

import msgspec

from ledger.errors import UsageError
from ledger.events import GENESIS
from ledger.export.manifest import (
    BODIES,
    ENVELOPES,
    LONGEST,
    LONGEST_ROW,
    MANIFEST,
    Line,
    Manifest,
    lines_of,
    open_file,
    read_manifest,
    unusable,
)
from ledger.export.public_log import LayoutCheck, layout_check
from ledger.export.quarantined import QUARANTINED, RECORD, Quarantine
from ledger.format.actions import ERASED, erased_by, is_own
from ledger.format.canonical import digest
from ledger.format.decode import NO_BODY, Envelope, body_columns, parse_body, read_envelope
from ledger.format.findings import (
    Findings,
    Link,
    Walk,
    add_mismatched,
    add_not_erased,
    body_flaw,
    check_body,
    check_rules,
)
from ledger.format.quarantine_record import Mark, leaf_of
from ledger.format.rules import surely_kept
from ledger.format.times import microseconds
from ledger.verify.checkpoints import Trust
from ledger.verify.own_entries import OwnEntries, OwnEntry, Target
from ledger.verify.report import Report, check_tail

_ERASURE = b'{"action":"%b",' % ERASED.encode()
"""How the envelope of an erasure begins."""
_STEP = 1_000
"""Entries between two calls of `progress`."""


def verify_bundle(
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    checkpoints: Sequence[tuple[str, bytes]] = (),
    trust: Trust | None = None,
) -> Report:
    """Checks a bundle: every envelope's form, hash, link and time, every body, that all keep the rules, and that the
    manifest names them all.

    A changed envelope shows at the entry after it, whose `prev` no longer fits; the newest one, in the manifest.
    Where the bundle has a checkpoint and tiles, they must be those of its envelopes; with keys, signed as demanded.
    progress: called with how many entries are done, and how many the manifest names.
    checkpoints, trust: as verify.verify takes them.
    What is wrong with what lies in the folder is a finding, or, where it is no bundle any more (no manifest that can be
    read, a file missing, nothing that the keys could have signed), EvidenceRefused.
    Raises UsageError if the folder has no manifest at all, or a file cannot be read, and for given checkpoints if
    a sound bundle does not begin with the first entry; NoteRefused for a given checkpoint.
    """
    started = time.perf_counter()
    try:
        if not (folder / MANIFEST).exists():
            raise UsageError(f"{folder} is no bundle: it has no {MANIFEST}")
        manifest, as_exported = read_manifest(folder / MANIFEST)
        findings = Findings()
        tree = layout_check(folder, manifest, checkpoints, trust or Trust(), findings)
        erasures = _erasures(folder / ENVELOPES)
        check = _Check(manifest, findings, tree, erasures, _quarantine(folder, manifest.ledger))
        if not as_exported:
            check.findings.add(manifest.last, "tail_mismatch", f"{MANIFEST} is not as an export writes it")
        with ExitStack() as stack:
            paths = [folder / name for name in (ENVELOPES, BODIES)]
            lines = [lines_of(stack.enter_context(open_file(path)), path) for path in paths]
            for line, body in zip_longest(*lines):
                check.take(line, body)
                if progress is not None and (check.lines % _STEP == 0 or check.lines == manifest.entries):
                    progress(check.lines, max(check.lines, manifest.entries))
        check.pass_holes(manifest.last + 1)
        if tree is not None:
            tree.end()
    except OSError as error:
        raise unusable(Path(error.filename or folder), error) from error
    check.end()
    last = check.walk.last
    listed = check.findings.listed()
    if checkpoints and manifest.first != 1 and not listed:
        raise UsageError("checkpoints are compared with all entries from the first, and this bundle begins later")
    return Report(
        ledger=manifest.ledger,
        ok=not listed,
        first=manifest.first,
        last=last.position,
        entries=check.lines,
        head=last.stored or GENESIS,
        findings=listed,
        seconds=time.perf_counter() - started,
    )


def _erasures(path: Path) -> dict[int, int]:
    """By position, the entries that an erasure names, and the position of the first one after them."""
    erased: dict[int, int] = {}
    with open_file(path) as file:
        for line in lines_of(file, path):
            if line.text.startswith(_ERASURE):
                with suppress(ValueError):
                    envelope = read_envelope(line.text)
                    named = _own(envelope).named
                    if named is not None and named < envelope.position:
                        erased.setdefault(named, envelope.position)
    return erased


def _quarantine(folder: Path, ledger: str) -> Quarantine:
    """Reads what stands behind the entries that it is about, before anything else is checked."""

    def lines(name: str, longest: int = LONGEST) -> Iterator[bytes]:
        path = folder / name
        if path.exists():
            with open_file(path) as file:
                yield from (line.text for line in lines_of(file, path, longest))

    records = {number: envelope for number, envelope in enumerate(lines(ENVELOPES)) if envelope.startswith(RECORD)}
    bodies = enumerate(lines(BODIES)) if records else ()
    pairs = ((records[number], body) for number, body in bodies if number in records)
    return Quarantine.read(ledger, pairs, lines(QUARANTINED, LONGEST_ROW))


def _own(envelope: Envelope) -> OwnEntry:
    return OwnEntry(envelope.position, envelope.action, envelope.resource_type, envelope.resource_id)


class _Check:
    """Takes the lines of both files, pair by pair."""

    def __init__(
        self,
        manifest: Manifest,
        findings: Findings,
        tree: LayoutCheck | None,
        erasures: dict[int, int],
        quarantine: Quarantine,
    ) -> None:
        """erasures: see `_erasures`."""
        self.manifest = manifest
        self.findings = findings
        self.tree = tree
        self.erasures = erasures
        self.quarantine = quarantine
        prev = bytes.fromhex(manifest.prev)
        self.walk = Walk(Link(manifest.first - 1, prev, prev, None), self.findings)
        self.own = OwnEntries(self.findings, whole=manifest.first == 1)
        # What the own entries to come will name: what is erased, and erasures, which nothing may leave out.
        self.targets: dict[int, Target] = {}
        self.lines = 0
        self.erased = 0
        self.surplus = 0
        # The positions of erased entries for which no erasure has come yet, in order.
        self.unexcused: dict[int, None] = {}
        self.passed: Mark | None = None

    def take(self, line: Line | None, body: Line | None) -> None:
        if line is None:
            self.surplus += 1
            return
        self.lines += 1
        hashed = digest(line.text)
        envelope, problem = None, ""
        try:
            envelope = _well_formed(line, self.manifest.ledger)
        except ValueError as error:
            problem = f"its line in {ENVELOPES} is not an envelope of the format: {error}"
        if envelope is not None:
            self.pass_holes(envelope.position)
        position = envelope.position if envelope is not None else self.walk.last.position + 1
        if position in self.quarantine.known and self._passes(position, line):
            self.erased += body is not None and not body.text
            return
        if self.tree is not None:
            self.tree.take(line.text)
        if envelope is None:
            self.findings.add(position, "hash_mismatch", problem)
            self.walk.step(Link(position, hashed, hashed, None), self.walk.last.stored)
            self.erased += body is not None and not body.text
            return
        recorded = microseconds(envelope.recorded_at)
        self.walk.step(Link(envelope.position, hashed, hashed, recorded), bytes.fromhex(envelope.prev))
        erased = erased_by(envelope.action, envelope.resource_type, envelope.resource_id, envelope.position)
        if erased is not None:
            self.unexcused.pop(erased, None)
            self._take_erasure(erased, envelope, body)
        intact = self._take_body(envelope, body)
        self._take_rules(envelope, hashed, b"" if body is None else body.text, intact=intact)

    def pass_holes(self, until: int) -> None:
        """Entries without a line that are quarantined, from the last entry up to `until`."""
        while self.walk.last.position + 1 < until:
            mark = self.quarantine.mark_of(self.walk.last.position + 1, None)
            if mark is None:
                return
            self._pass(mark, mark.hash)

    def _passes(self, position: int, line: Line) -> bool:
        """Returns whether a line is what a record quarantines, which is then a finding.

        Further lines of the same position, where more than one row stood there, belong to it.
        """
        if self.passed is not None and self.passed.position == position:
            return True
        mark = self.quarantine.mark_of(position, line.text)
        if mark is not None:
            self._pass(mark, leaf_of(line.text, mark))
        return mark is not None

    def _pass(self, mark: Mark, leaf: bytes) -> None:
        self.findings.add(*mark.finding())
        self.passed = mark
        self.walk.last = Link(mark.position, mark.hash, mark.hash, self.walk.last.recorded)
        if self.tree is not None:
            self.tree.take(leaf, quarantined=True)

    def _take_erasure(self, erased: int, envelope: Envelope, body: Line | None) -> None:
        """Adds what the erasure says, if the body that it removed was not its envelope's."""
        try:
            _, _, metadata, _ = parse_body(body.text if body is not None else b"")
            mismatched = msgspec.json.decode(metadata or "").get("mismatched")
        except (AttributeError, ValueError):
            return
        if mismatched is not None:
            add_mismatched(erased, envelope.position, envelope.actor, mismatched, self.findings)

    def _take_body(self, envelope: Envelope, body: Line | None) -> bool:
        """Checks a body. Returns whether it is there and the one that the envelope names."""
        position = envelope.position
        if body is None:
            self.findings.add(position, "body_missing", f"{BODIES} ends before its line")
        elif not body.whole:
            self.findings.add(position, "body_mismatch", f"its line in {BODIES} is cut off")
        else:
            gone = not body.text
            self.erased += gone
            flaw = body_flaw(body.text or None, bytes.fromhex(envelope.body))
            if check_body(position, envelope.action, flaw, self.findings, gone=gone):
                self.unexcused[position] = None
            return not gone and flaw is None
        return False

    def _take_rules(self, envelope: Envelope, hashed: bytes, body: bytes, *, intact: bool) -> None:
        position = envelope.position
        texts = NO_BODY
        if intact:
            try:
                texts = body_columns(body)
            except ValueError as error:
                self.findings.add(position, "rule_broken", f"body_form: a body has the form of format.md; {error}")
        if not surely_kept(
            envelope.actor, envelope.actor_type, envelope.action, envelope.resource_type, envelope.resource_id, body
        ):
            check_rules(envelope.columns(hashed, texts), self.findings)
        if position in self.erasures or envelope.action == ERASED:
            erased = self.erasures.get(position)
            self.targets[position] = Target(
                envelope.action, envelope.resource_type, envelope.resource_id, bool(body), erased
            )
        if is_own(envelope.action):
            entry = _own(envelope)
            self.own.take(entry, None if entry.named is None else self.targets.get(entry.named))

    def end(self) -> None:
        """What only shows once all lines are read."""
        manifest, last, add = self.manifest, self.walk.last, self.findings.add
        for position in self.unexcused:
            mark = self.quarantine.mark_of(position, None)
            if mark is not None:
                add(*mark.finding())
            else:
                add_not_erased(position, self.findings)
        if self.surplus:
            add(last.position, "body_mismatch", f"{BODIES} has {self.surplus} lines more than {ENVELOPES}")
        if manifest.first == 1 and manifest.prev != GENESIS.hex():
            add(1, "broken_link", f"{MANIFEST} names a prev of the first entry other than 64 zeros")
        head = bytes.fromhex(manifest.head)
        check_tail(Link(manifest.last, head, head, last.recorded), last, manifest.first, self.findings)
        for name, says, holds in (("entries", manifest.entries, self.lines), ("erased", manifest.erased, self.erased)):
            if says != holds:
                add(manifest.last, "tail_mismatch", f"{MANIFEST} says {name}: {says}, the files hold {holds}")


def _well_formed(line: Line, ledger: str) -> Envelope:
    """The line's envelope. Raises ValueError saying what is wrong with its form."""
    if not line.whole:
        raise ValueError("it is cut off")
    envelope = read_envelope(line.text)
    if envelope.ledger != ledger:
        raise ValueError(f"it is of ledger {envelope.ledger!r}")
    return envelope
