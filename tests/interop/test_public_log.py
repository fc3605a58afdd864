"""Independent verifiers on a ledger of 100,000 entries: checkpoints, proofs, served tiles."""

from __future__ import annotations

import json
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ledger import Event, Ledger
from ledger.checkpoints.keys import create_key
from ledger.export.bundle import export
from ledger.tlog.merkle import leaf_hash
from tests.support.logs import INSTALL_PYTHON, false

SIZES = (65_535, 65_537, 100_000)
INDEXES = (0, 255, 256, 65_535, 65_536, 99_999)


@pytest.fixture
def vkey(tmp_path: Path) -> str:
    return create_key(tmp_path / "main.key", "log.example/audit/main").vkey


def test_others_accept_a_ledger_of_100_000_entries(ledger: Ledger, vkey: str, tmp_path: Path) -> None:
    metamorphic: Any = pytest.importorskip("metamorphic_log", reason=f"metamorphic-log is {INSTALL_PYTHON}")
    pytest.importorskip("tlog_scales.tlog", reason=f"tlog-scales is {INSTALL_PYTHON}")
    notes = {}
    recorded = 0
    for size in SIZES:
        ledger.append_many(Event("user:42", "row.read", after={"row": row}) for row in range(recorded, size))
        recorded = size
        notes[size] = ledger.checkpoint(tmp_path / "main.key").note
    newest = notes[SIZES[-1]].decode()

    # metamorphic-log: the checkpoints, the proofs that `prove` writes, and that each checkpoint continues the last.
    for size, note in notes.items():
        assert metamorphic.checkpoint_verify(note.decode(), [vkey]).size == size
    for index in INDEXES:
        proof = ledger.prove(index + 1)
        leaf, path = leaf_hash(proof.envelope), list(proof.path)
        assert (proof.index, proof.note.decode()) == (index, newest)
        metamorphic.checkpoint_verify_inclusion(newest, [vkey], index, leaf, path)
        with pytest.raises(metamorphic.VerifyError):
            metamorphic.checkpoint_verify_inclusion(newest, [vkey], index, leaf, false(path))
    for old, new in pairwise(SIZES):
        path = list(ledger.prove_between(old, new).path)
        both = notes[old].decode(), notes[new].decode()
        metamorphic.checkpoint_verify_consistency(*both, [vkey], path)
        with pytest.raises(metamorphic.VerifyError):
            metamorphic.checkpoint_verify_consistency(*both, [vkey], false(path))

    # tlog-scales: the exported folder, as a static web server would serve it.
    export(ledger.settings, tmp_path / "public")
    backend = import_module("tlog_scales.backend").LocalBackend(tmp_path / "public")
    reader = import_module("tlog_scales.reader").TilesReader(backend)
    served = reader.get_checkpoint()
    served.verify(import_module("tlog_scales.signing").Vkey.from_string(vkey))
    assert (served.origin, served.size) == ("log.example/audit/main", SIZES[-1])
    assert reader.calculate_root_hash() == served.root_hash
    assert [json.loads(reader.get_entry(index))["position"] for index in INDEXES] == [each + 1 for each in INDEXES]
