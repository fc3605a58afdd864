"""Signed notes, keys, cosignatures and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledger.checkpoint import Checkpoint, open_checkpoint
from ledger.errors import NoteRefused
from ledger.merkle import leaf_hash
from ledger.note import FileSigner, Verifier, cosign, new_key, parse_note, sign, verified_by

VECTORS = json.loads((Path(__file__).parent / "vectors/c2sp.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["notes"], ids=lambda vector: vector["vkey"].partition("+")[0])
def test_notes_of_others_verify(vector: dict[str, Any]) -> None:
    key = Verifier.parse(vector["vkey"])
    data = f"{vector['text']}\n{vector['signature_line']}\n".encode()
    note = parse_note(data)
    assert (note.text, note.encode()) == (vector["text"].encode(), data)
    assert verified_by(note, [key]) == [key]
    assert key.vkey == vector["vkey"]
    with pytest.raises(NoteRefused, match="does not verify"):
        verified_by(parse_note(b"x" + data), [key])


def test_a_checkpoint_and_its_cosignature() -> None:
    signer, witness = FileSigner("example.com/audit/main", bytes(32)), FileSigner("witness.example", b"w" * 32)
    checkpoint = Checkpoint(signer.name, 1, leaf_hash(b"one"))
    data = sign(checkpoint.text, [signer], [cosign(checkpoint.text, witness, 1679315147)])
    keys, witnesses = [Verifier.parse(signer.vkey)], [Verifier.parse(witness.vkey).cosigner]
    assert open_checkpoint(data, signer.name, keys, witnesses, 1) == checkpoint
    assert FileSigner.parse(new_key(signer.name, bytes(32))[0]).vkey == signer.vkey
