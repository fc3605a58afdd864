"""Witnesses as `checkpoint(cosign=…)` takes them: all are asked at once, and so many must stand on the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.checkpoint import Checkpoint
from ledger.checkpointing import Cosigned, Prove
from ledger.errors import InvalidSetting
from ledger.note import parse_note
from ledger.witness import TIMEOUT, Witness, cosigned, demand, gather


class Witnesses:
    """Asks the same witnesses again and again, for one ledger's checkpoints.

    witnesses: each a Witness, or `URL+VKEY`. quorum: how many different keys must cosign, by default all. timeout:
    seconds that each has for an answer. Raises InvalidSetting for what is no witness, and for a quorum that can never
    be met.
    """

    def __init__(
        self, witnesses: Sequence[Witness | str], quorum: int | None = None, *, timeout: float = TIMEOUT
    ) -> None:
        self.witnesses = [each if isinstance(each, Witness) else Witness.parse(each) for each in witnesses]
        keys = len({witness.verifier.public_key for witness in self.witnesses})
        if not keys:
            raise InvalidSetting("no witness to ask: give one as URL+VKEY")
        self.quorum = keys if quorum is None else quorum
        if not 0 <= self.quorum <= keys:
            raise InvalidSetting(f"{self.quorum} witnesses must cosign, and {keys} are given")
        self._timeout = timeout
        self._sizes: dict[str, int] = {}

    def __call__(self, note: bytes, prove: Prove) -> Cosigned:
        """What came of asking them; nothing that they answer is raised before `demand` is called."""
        outcomes = gather(note, self.witnesses, prove, sizes=self._sizes, timeout=self._timeout)
        size = Checkpoint.parse(parse_note(note).text).size
        made = [outcome.witness for outcome in outcomes if outcome.cosignature is not None]
        self._sizes |= {witness.verifier.vkey: size for witness in made}  # so that the next proof fits at once
        failed = [(outcome.witness.verifier.name, outcome.detail) for outcome in outcomes if outcome.detail]
        return Cosigned(
            cosigned(note, outcomes), lambda kept: demand(kept, self.witnesses, self.quorum, outcomes), failed
        )
