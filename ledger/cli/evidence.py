"""prove, check."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ledger.checkpoint import Checkpoint, cosigned_by
from ledger.cli.app import Command
from ledger.cli.keys import read_evidence, trust_of, trust_options
from ledger.cli.output import line, write_json
from ledger.cli.shared import Shared, pass_shared
from ledger.evidence import ledger_of
from ledger.note import Verifier, parse_note
from ledger.proof import CONSISTENCY, PROOF, Proven, check_consistency_proof, check_proof


@click.command("check", cls=Command)
@click.argument("file", type=click.Path(allow_dash=True))
@trust_options
@pass_shared
def check_command(
    shared: Shared, file: str, keys: tuple[str, ...], witnesses: tuple[str, ...], quorum: int | None
) -> None:
    """Check a proof, a consistency proof or a checkpoint with nothing but the log's public key. '-' is stdin.

    No database and no network. Exits 1 where it does not hold.
    """
    trust = trust_of(keys, witnesses, quorum)
    if not trust.keys:
        raise click.UsageError("whose signature counts? Give the log's public key: --key VKEY")
    data = read_evidence(file)
    given = (None, trust.keys, trust.witnesses, trust.quorum)
    kind = data.partition(b"\n")[0]
    if kind == PROOF.encode():
        _print_proven(shared, check_proof(data, *given))
    elif kind == CONSISTENCY.encode():
        _print_consistent(shared, *check_consistency_proof(data, *given))
    else:
        _print_checkpoint(shared, trust.open(data), cosigned_by(parse_note(data), trust.witnesses))


def _print_proven(shared: Shared, proven: Proven) -> None:
    said, checkpoint = proven.envelope, proven.checkpoint
    if shared.json:
        body = None if proven.body is None else msgspec.Raw(proven.body)
        found = {"kind": "proof", "ok": True, "ledger": said.ledger, "position": said.position}
        rest = {"envelope": msgspec.Raw(proven.raw), "body": body}
        write_json(found | _checkpoint(checkpoint) | _witnesses(proven.witnesses) | rest)
        return
    line(proven.raw.decode())
    if proven.body is not None:
        line(proven.body.decode())
    line(f"OK, entry {said.position} of ledger {said.ledger} is in {_text(checkpoint)}{_cosigned(proven.witnesses)}")


def _print_consistent(shared: Shared, old: Checkpoint, new: Checkpoint) -> None:
    if shared.json:
        checkpoints = {"old": _checkpoint(old), "new": _checkpoint(new)}
        write_json({"kind": "consistency", "ok": True, "ledger": ledger_of(new)} | checkpoints)
    else:
        line(f"OK, {_text(new)}, begins with all that {_text(old)}, had")


def _print_checkpoint(shared: Shared, checkpoint: Checkpoint, witnesses: list[Verifier]) -> None:
    if shared.json:
        found = {"kind": "checkpoint", "ok": True, "ledger": ledger_of(checkpoint)}
        write_json(found | _checkpoint(checkpoint) | _witnesses(witnesses))
    else:
        line(f"OK, {_text(checkpoint)}, is signed{_cosigned(witnesses)}; root {checkpoint.root.hex()}")


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _witnesses(witnesses: tuple[Verifier, ...] | list[Verifier]) -> dict[str, Any]:
    return {"witnesses": [witness.name for witness in witnesses]}


def _text(checkpoint: Checkpoint) -> str:
    return f"the checkpoint of {checkpoint.origin} at {checkpoint.size} entries"


def _cosigned(witnesses: tuple[Verifier, ...] | list[Verifier]) -> str:
    return f", cosigned by {', '.join(witness.name for witness in witnesses)}" if witnesses else ""
