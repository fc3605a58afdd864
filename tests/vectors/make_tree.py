"""Writes tree.json beside it: tiles, bundles, proofs, notes and cosignatures, made without a line of the package.

    python tests/vectors/make_tree.py

Straight from RFC 6962 and the C2SP documents, in the slow way. It was run once; run it again only to add cases, and see
that the others stay as they are. Leaf n is the bytes `entry <n>`; the seeds of the keys are in the file.
"""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "log.example/audit/main"
SEEDS = {"log.example/audit/main": "01" * 32, "witness.example/w1": "02" * 32, "witness.example/w2": "03" * 32}
TIMES = {"witness.example/w1": 1795363200, "witness.example/w2": 0}
SIZES = (0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537)


def leaf(number: int) -> bytes:
    return b"entry %d" % number


@cache
def mth(start: int, end: int) -> bytes:
    """RFC 6962, section 2.1."""
    if start == end:
        return sha256(b"").digest()
    if end - start == 1:
        return sha256(b"\x00" + leaf(start)).digest()
    k = 1
    while k * 2 < end - start:
        k *= 2
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[str]:
    """RFC 6962, section 2.1.1."""
    if end - start == 1:
        return []
    k = 1
    while k * 2 < end - start:
        k *= 2
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end).hex()]
    return [*path(m - k, start + k, end), mth(start, start + k).hex()]


def name_of(level: str, index: int, width: int) -> str:
    """tlog-tiles, "Merkle Tree"."""
    name = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        name = f"x{index % 1000:03d}/{name}"
    return f"tile/{level}/{name}" + (f".p/{width}" if width < 256 else "")


def tiles(size: int) -> dict[str, bytes]:
    """tlog-tiles, "Merkle Tree": MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l])."""
    found = {}
    for level in range(8):
        entries = size // 256**level
        for n in range((entries + 255) // 256):
            width = min(256, entries - n * 256)
            span = 256**level
            hashes = [mth((n * 256 + i) * span, (n * 256 + i + 1) * span) for i in range(width)]
            found[name_of(str(level), n, width)] = b"".join(hashes)
    return found


def bundles(size: int) -> dict[str, bytes]:
    """tlog-tiles, "Log entries"."""
    found = {}
    for n in range((size + 255) // 256):
        entries = [leaf(number) for number in range(n * 256, min(size, n * 256 + 256))]
        data = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
        found[name_of("entries", n, len(entries))] = data
    return found


def key_of(name: str, kind: int) -> tuple[Ed25519PrivateKey, bytes, str]:
    """signed-note, "Signatures": the key, its id, its vkey."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEEDS[name]))
    public = bytes([kind]) + key.public_key().public_bytes_raw()
    key_id = sha256(name.encode() + b"\n" + public).digest()[:4]
    return key, key_id, f"{name}+{key_id.hex()}+{b64encode(public).decode()}"


def line(name: str, data: bytes) -> str:
    return f"\u2014 {name} {b64encode(data).decode()}"


def case(size: int) -> dict[str, Any]:
    text = f"{ORIGIN}\n{size}\n{b64encode(mth(0, size)).decode()}\n"
    key, key_id, _ = key_of(ORIGIN, 1)
    lines = [line(ORIGIN, key_id + key.sign(text.encode()))]
    for name, time in TIMES.items():
        key, key_id, _ = key_of(name, 4)
        signed = key.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
        lines.append(line(name, key_id + time.to_bytes(8, "big") + signed))
    content = tiles(size) | bundles(size)
    return {
        "size": size,
        "root": mth(0, size).hex(),
        "note": text + "\n" + "".join(each + "\n" for each in lines),
        "tiles": len(content),
        "sha256_of_all": sha256(
            b"".join(path.encode() + b"\n" + content[path] for path in sorted(content))
        ).hexdigest(),
        "partial": {path: sha256(content[path]).hexdigest() for path in sorted(content) if ".p/" in path},
        "inclusion": {
            str(index): path(index, 0, size) for index in sorted({0, size // 2, size - 1}) if 0 <= index < size
        },
    }


def main() -> None:
    vectors = {
        "keys": [
            {"name": name, "seed": seed, "vkey": key_of(name, 1 if name == ORIGIN else 4)[2]}
            for name, seed in SEEDS.items()
        ],
        "times": TIMES,
        "trees": [case(size) for size in SIZES],
    }
    target = Path(__file__).parent / "tree.json"
    target.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
