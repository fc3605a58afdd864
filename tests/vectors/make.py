"""Writes format.json beside it: worked entries of docs/format.md, made without a line of the package.

    python tests/vectors/make.py

It was run once; the bytes are frozen. Run it again only to add entries, and see that the others stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

NASTY = "".join(map(chr, range(1, 0x20))) + '"\\/\x7f\x80\u2028\u2029\ufeff\uffff\U0001f600\U0010ffffé中'
LONG_NAME = "0" + "a.b_c-d" * 9
FIRST, LAST = "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"
NOW = "2026-11-22T16:00:00.000007Z"
PLAIN: dict[str, Any] = {
    "ledger": "main",
    "recorded_at": NOW,
    "occurred_at": NOW,
    "actor": "user:42",
    "actor_type": "user",
    "action": "invoice.updated",
    "resource_type": "invoice",
    "resource_id": "inv_7",
    "before": None,
    "after": None,
    "metadata": None,
}
ENTRIES: list[tuple[str, dict[str, Any]]] = [
    (
        "plain",
        {
            "before": '{"status":"draft"}',
            "after": '{"status":"sent","total":"120.00"}',
            "metadata": '{"ip":"192.0.2.7"}',
        },
    ),
    ("no resource and no body", {"action": "user.login", "resource_type": None, "resource_id": None}),
    ("JSON nulls are texts; they hash as NULL does", {"before": "null", "after": None, "metadata": "null"}),
    (
        "every control character, DEL, U+0080, U+2028, U+FEFF, astral and last characters",
        dict.fromkeys(("actor", "actor_type", "action", "resource_type", "resource_id"), NASTY),
    ),
    (
        "bodies are hashed as stored: spaces, odd numbers, escapes and a key that comes twice",
        {"before": '{"b": 1.0, "a":1e2,"a":-0.0}', "after": '"\\u00e9\\/\\ud83d\\ude00"', "metadata": " [ ] "},
    ),
    (
        "the shortest of everything",
        {"actor": "u", "actor_type": "u", "action": "a", "resource_type": "r", "resource_id": "1", "after": "0"},
    ),
    (
        "the longest of everything, in characters of four bytes",
        {
            "actor": "\U0001f600" * 255,
            "actor_type": "\U0001f600" * 64,
            "action": "\U0001f600" * 128,
            "resource_type": "\U0001f600" * 64,
            "resource_id": "\U0001f600" * 255,
        },
    ),
    ("the first moment", {"occurred_at": FIRST}),
    ("the last moment", {"occurred_at": LAST, "recorded_at": LAST}),
    ("another ledger, the longest name; recorded at the first moment", {"ledger": LONG_NAME, "recorded_at": FIRST}),
    ("erased: the body is gone, the envelope stays", {"ledger": LONG_NAME, "after": '{"name":"Zoë"}', "erased": True}),
    (
        "the erasure that makes it sound",
        {
            "ledger": LONG_NAME,
            "action": "ledger.entry_erased",
            "resource_type": "ledger.entry",
            "resource_id": "2",
        },
    ),
]


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def main() -> None:
    tails: dict[str, tuple[int, str]] = {}
    worked = []
    for number, (note, differences) in enumerate(ENTRIES, 1):
        entry = PLAIN | differences
        erased = entry.pop("erased", False)
        position, prev = tails.get(entry["ledger"], (0, "0" * 64))
        entry["id"] = f"01930000-0000-7000-8000-{number:012x}"
        entry["salt"] = f"{number * 0x1111:032x}"
        parts = (entry["after"] or "null", entry["before"] or "null", entry["metadata"] or "null", entry["salt"])
        body = '{{"after":{},"before":{},"metadata":{},"salt":"{}"}}'.format(*parts).encode()
        envelope = compact(
            {
                "v": 1,
                "body": blake3(body).hexdigest(),
                "position": position + 1,
                "prev": prev,
                **{key: entry[key] for key in PLAIN | {"id": 0} if key not in ("before", "after", "metadata")},
            }
        )
        entry |= {"position": position + 1, "prev_hash": prev, "body_hash": blake3(body).hexdigest()}
        entry["hash"] = blake3(envelope).hexdigest()
        tails[entry["ledger"]] = position + 1, entry["hash"]
        if erased:
            entry |= {"before": None, "after": None, "metadata": None, "salt": None}
        worked.append(
            {"note": note, "entry": entry, "envelope": envelope.decode(), "body": None if erased else body.decode()}
        )
    (Path(__file__).parent / "format.json").write_text(json.dumps(worked, indent=1) + "\n")


if __name__ == "__main__":
    main()
