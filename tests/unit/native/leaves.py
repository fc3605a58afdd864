"""What takes the leaves of a check, and tells how they came."""

from __future__ import annotations

from ledger.tlog.merkle import leaf_hash


class Leaves:
    """Of each position its hash, and whether it was quarantined; those of sound ones may come joined."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes | None, bool]] = []

    def add(self, position: int, envelope: bytes | None, quarantined: bool = False) -> None:
        self.said.append((position, None if envelope is None else leaf_hash(envelope), quarantined))

    def add_hashes(self, position: int, hashes: bytes) -> None:
        for index in range(0, len(hashes), 32):
            self.said.append((position + index // 32, hashes[index : index + 32], False))

    @property
    def hashes(self) -> bytes:
        return b"".join(leaf or b"" for _, leaf, _ in self.said)
