"""prove and check: proofs that need no trust in the database or its operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from ledger.checkpoints.proof import (
    CONSISTENCY,
    PROOF,
    Consistency,
    Proof,
    Proven,
    check_consistency_proof,
    check_proof,
)
from ledger.cli.app import Command
from ledger.cli.connect import opened
from ledger.cli.context import Shared, pass_shared
from ledger.cli.options import read_evidence, trust_of, trust_options
from ledger.cli.output import counted, line, write_json, write_note
from ledger.cli.params import PositionOrId
from ledger.errors import UsageError
from ledger.tlog.checkpoint import Checkpoint, cosigned_by
from ledger.tlog.note import Verifier, parse_note


@click.command("prove", cls=Command)
@click.argument("entry", type=PositionOrId(), required=False, metavar="POSITION|ID")
@click.option(
    "--between",
    nargs=2,
    metavar="A B",
    help="Prove that checkpoint B continues A: sizes of kept checkpoints, or files.",
)
@click.option("--with-body", is_flag=True, help="Include the entry's body in the proof.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to FILE; default stdout.",
)
@pass_shared
def prove_command(
    shared: Shared, entry: int | UUID | None, between: tuple[str, str] | None, with_body: bool, output: Path | None
) -> None:
    """Write a proof that an entry is in the ledger's newest checkpoint. Anyone can check it offline."""
    if (entry is None) == (between is None):
        raise click.UsageError("give either POSITION or ID of an entry, or --between A B")
    if output == Path("-"):
        output = None
    if with_body and between is not None:
        raise click.UsageError("--with-body applies to the proof of an entry only")
    checkpoints = [_size_or_note(each) for each in between or ()]
    with opened(shared) as ledger:
        if entry is None:
            proof: Proof | Consistency = ledger.prove_between(*checkpoints)
        else:
            proof = ledger.prove(entry, with_body=with_body)
    _write_proof(shared, proof, output)


def _size_or_note(text: str) -> int | bytes:
    return int(text) if text.isdecimal() and len(text) < 20 else read_evidence(text)


def _write_proof(shared: Shared, proof: Proof | Consistency, output: Path | None) -> None:
    data = proof.encode()
    newest = Checkpoint.of(proof.note if isinstance(proof, Proof) else proof.new)
    if output is not None:
        try:
            output.write_bytes(data)
        except OSError as error:
            raise UsageError(f"{output} cannot be written: {error.strerror or error}") from error
    if isinstance(proof, Proof):
        position = proof.index + 1
        fields: dict[str, Any] = {"kind": "proof", "position": position}
        what = f"of entry {position} of ledger {newest.log}, in {_text(newest)}"
    else:
        old = Checkpoint.of(proof.old)
        fields = {"kind": "consistency", "old_size": old.size}
        what = f"that {_text(newest)} continues that at {old.size}"
    if shared.json:
        content = {"proof": data.decode()} if output is None else {"file": str(output)}
        write_json(fields | {"ledger": newest.log} | _checkpoint(newest) | {"bytes": len(data)} | content)
    elif output is None:
        write_note(data)
    else:
        line(f"Wrote the proof {what}: {output}, {len(data):,} bytes")


@click.command("check", cls=Command)
@click.argument("file", type=click.Path(allow_dash=True))
@trust_options
@pass_shared
def check_command(
    shared: Shared, file: str, keys: tuple[str, ...], witnesses: tuple[str, ...], quorum: int | None
) -> None:
    """Check a proof, a consistency proof or a checkpoint with the log's public key. '-' is stdin.

    Needs no database and no network. Exit code 1 if the file is not valid.
    """
    trust = trust_of(keys, witnesses, quorum)
    if not trust.keys:
        raise click.UsageError("Missing --key: the log's public key, which 'auditledger keygen' printed")
    data = read_evidence(file)
    given = (None, trust.keys, trust.witnesses, trust.quorum)
    kind = data.partition(b"\n")[0]
    if kind == PROOF.encode():
        _print_proven(shared, check_proof(data, *given))
    elif kind == CONSISTENCY.encode():
        _print_consistent(shared, *check_consistency_proof(data, *given))
    elif (
        b"\n\n" not in data and "\n\u2014 ".encode() not in data
    ):  # a damaged one has at least one of these, and ends with exit code 1
        raise UsageError(f"{file} is neither a proof nor a checkpoint")
    else:
        _print_checkpoint(shared, trust.open(data), cosigned_by(parse_note(data), trust.witnesses))


def _print_proven(shared: Shared, proven: Proven) -> None:
    envelope, checkpoint = proven.envelope, proven.checkpoint
    if shared.json:
        body = None if proven.body is None else msgspec.Raw(proven.body)
        fields = {"kind": "proof", "ok": True, "ledger": envelope.ledger, "position": envelope.position}
        rest = {"envelope": msgspec.Raw(proven.raw), "body": body}
        write_json(fields | _checkpoint(checkpoint) | _witnesses(proven.witnesses) | rest)
        return
    line(proven.raw.decode())
    if proven.body is not None:
        line(proven.body.decode())
    entry = f"entry {envelope.position} of ledger {envelope.ledger}"
    line(f"OK, {entry} is in {_text(checkpoint)}{_cosigned(proven.witnesses)}")


def _print_consistent(shared: Shared, old: Checkpoint, new: Checkpoint) -> None:
    if shared.json:
        checkpoints = {"old": _checkpoint(old), "new": _checkpoint(new)}
        write_json({"kind": "consistency", "ok": True, "ledger": new.log} | checkpoints)
    else:
        line(f"OK, {_text(new)} continues {_text(old)}")


def _print_checkpoint(shared: Shared, checkpoint: Checkpoint, witnesses: list[Verifier]) -> None:
    if shared.json:
        fields = {"kind": "checkpoint", "ok": True, "ledger": checkpoint.log}
        write_json(fields | _checkpoint(checkpoint) | _witnesses(witnesses))
    else:
        line(f"OK, {_text(checkpoint)} is signed{_cosigned(witnesses)}; root {checkpoint.root.hex()}")


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _witnesses(witnesses: tuple[Verifier, ...] | list[Verifier]) -> dict[str, Any]:
    return {"witnesses": [witness.name for witness in witnesses]}


def _text(checkpoint: Checkpoint) -> str:
    return f"the checkpoint of {checkpoint.origin} at {counted(checkpoint.size, 'entry')}"


def _cosigned(witnesses: tuple[Verifier, ...] | list[Verifier]) -> str:
    return f", cosigned by {', '.join(witness.name for witness in witnesses)}" if witnesses else ""
