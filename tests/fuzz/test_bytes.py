"""Every parser of bytes and texts, with mutations of valid input and with inputs that once broke it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import LedgerError
from tests.fuzz.mutations import mutated
from tests.fuzz.native_targets import TARGETS
from tests.fuzz.profile import bounded, fuzz
from tests.fuzz.targets import try_out

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_sound_is_accepted(name: str) -> None:
    """Else the mutations would start from nothing."""
    accepted = 0
    for seed in TARGETS[name].seeds():
        try:
            TARGETS[name].check(seed)
            accepted += 1
        except LedgerError:
            continue
    assert accepted


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_changed_is_refused_or_true(name: str) -> None:
    sound = [*TARGETS[name].seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]

    @fuzz(40)
    @given(mutated(sound) | st.binary(max_size=80))
    def check(data: bytes) -> None:
        with bounded():
            try_out(name, data)

    check()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_broke_it_once(path: Path) -> None:
    with bounded():
        try_out(path.parent.name, path.read_bytes())
