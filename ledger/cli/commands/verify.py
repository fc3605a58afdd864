"""verify and export."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ledger.checkpoints.proof import CONSISTENCY, PROOF
from ledger.cli.app import DOES_NOT_VERIFY, OK, Command
from ledger.cli.connect import settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.options import read_evidence, trust_of, trust_options
from ledger.cli.output import counted, line, progress, write_json
from ledger.cli.params import POSITION
from ledger.cli.text import note
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.findings import Finding
from ledger.tlog.checkpoint import Checkpoint
from ledger.verify.database import verify
from ledger.verify.report import Report


@click.command("verify", cls=Command)
@click.option(
    "--from",
    "first",
    type=POSITION,
    default=1,
    metavar="POSITION",
    help="Begin at this position; tree and checkpoints, which need all entries, are then not checked.",
)
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Number of processes.")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Compare with this signed checkpoint. Repeatable. Needs --key.",
)
@trust_options
@click.option("--incremental", is_flag=True, help="Read only entries after the newest of these checkpoints.")
@click.option(
    "--bundle", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Check this exported bundle instead, without a database.",
)  # fmt: skip
@pass_shared
def verify_command(
    shared: Shared,
    first: int,
    workers: int,
    checkpoints: tuple[str, ...],
    keys: tuple[str, ...],
    witnesses: tuple[str, ...],
    quorum: int | None,
    incremental: bool,
    bundle: Path | None,
) -> int:
    """Check the chain, bodies, tail and protections, and list every finding. Exit code 1 if there is one.

    A checkpoint that you kept shows what the chain alone cannot: that entries were cut off (truncated), that the ledger
    was replaced (rewritten), or that two versions were signed (forked). The ledger's own checkpoints and Merkle tree
    are always checked.
    """
    trust = trust_of(keys, witnesses, quorum)
    if checkpoints and not keys:
        raise click.UsageError("--checkpoint needs --key VKEY, the public key of the log")
    notes = [(file, read_evidence(file)) for file in checkpoints]
    for file, data in notes:
        if data.startswith((PROOF.encode(), CONSISTENCY.encode())):
            raise click.UsageError(f"{file} is a proof, not a checkpoint: 'auditledger check {file}' checks it")
    if bundle is not None:
        if first != 1 or workers != 1 or incremental:
            raise click.UsageError("--bundle checks the whole bundle; --from, --workers and --incremental do not apply")
        with progress("Verifying") as advance:
            report = verify_bundle(bundle, advance, checkpoints=notes, trust=trust)
    else:
        settings = settings_of(shared)
        with progress("Verifying") as advance:
            report = verify(
                settings,
                first=first,
                workers=workers,
                checkpoints=notes,
                trust=trust,
                incremental=incremental,
                progress=advance,
            )
    compared = [(file, Checkpoint.of(data)) for file, data in notes]
    if shared.json:
        given = [{"file": file, "origin": it.origin, "size": it.size, "root": it.root.hex()} for file, it in compared]
        head = {"head": report.head.hex(), "seconds": round(report.seconds, 6)}
        write_json(msgspec.to_builtins(report) | head | ({"compared": given} if given else {}))
    else:
        print_report(report)
        for file, each in compared:
            _print_compared(file, each, report)
    return OK if report.ok else DOES_NOT_VERIFY


def print_report(report: Report) -> None:
    """Prints a line for each finding, and the verdict; on stderr, users who bypass privilege checks."""
    if report.privileged:
        note(f"Users who bypass privilege checks: {'; '.join(report.privileged)}")
    width = max((8, *(len(_entries(finding)) for finding in report.findings)))
    for finding in report.findings:
        line(f"{_entries(finding):>{width}}", f"{finding.kind:<15}", finding.detail)
    for noted in report.notes:
        line(f"Note: {noted}")
    span = f", {report.first} to {report.last}" if report.entries else ""
    what = f"ledger {report.ledger}: {counted(report.entries, 'entry')}{span}"
    if report.ok:
        line(f"OK, {what}; head {report.head.hex()}; {report.seconds:.2f} s")
    else:
        line(f"DOES NOT VERIFY, {what}; {counted(len(report.findings), 'finding')}; {report.seconds:.2f} s")


def _entries(finding: Finding) -> str:
    """The positions that a finding is about."""
    if finding.position == finding.through:
        return "-" if finding.position is None else str(finding.position)
    return f"entries {finding.position:,} to {finding.through:,}"


def _print_compared(file: str, checkpoint: Checkpoint, report: Report) -> None:
    """Prints whether the ledger matches a given checkpoint."""
    verdict = "Matches" if report.ok else "Compared with"
    if any(file in finding.detail for finding in report.findings):
        verdict = "Does not match"
    what = f"the checkpoint {file} of {checkpoint.origin}, {counted(checkpoint.size, 'entry')}"
    line(f"{verdict} {what}, root {checkpoint.root.hex()}")


@click.command("export", cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--from", "first", type=POSITION, default=1, metavar="POSITION", help="Begin at this position.")
@pass_shared
def export_command(shared: Shared, folder: Path, first: int) -> None:
    """Write a bundle into DIR, a new or empty folder: anyone can check it with b3sum, or with 'verify --bundle'."""
    if folder == Path("-"):
        raise click.UsageError("a bundle is a folder of several files: give a folder, not '-'")
    settings = settings_of(shared)
    with progress("Exporting") as advance:
        manifest = export(settings, folder, first=first, progress=advance)
    if shared.json:
        write_json(msgspec.json.encode(manifest))
    else:
        what = f"{counted(manifest.entries, 'entry')} of ledger {manifest.ledger}"
        line(f"Exported {what} to {folder}; head {manifest.head}")
