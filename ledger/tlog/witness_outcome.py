"""A witness, and what its answer means to the log that asked: C2SP tlog-witness, "add-checkpoint". Pure."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from ledger.errors import InvalidSetting, NoteRefused
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.note import COSIGNATURE, Note, Signature, Verifier, decimal, parse_signatures
from ledger.tlog.witness_protocol import SIZE_TYPE, Answer

MAX_SKEW = 300.0
"""Seconds by which a cosignature's time may differ from ours."""
_WITNESS = re.compile(r"(.+)\+([^+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44})", re.DOTALL)


class Witness(msgspec.Struct, frozen=True):
    """Where a witness is, and its key. url: its submission prefix, without the last slash."""

    url: str
    verifier: Verifier

    @classmethod
    def parse(cls, text: str) -> Witness:
        """The witness of `URL+VKEY`. Raises InvalidSetting."""
        matched = _WITNESS.fullmatch(text)
        if not matched:
            raise InvalidSetting(
                "a witness is given as URL+VKEY, such as https://witness.example+witness.example/w1+1a2b3c4d+BA…"
            )
        url, verifier = matched[1], Verifier.parse(matched[2])
        if verifier.kind != COSIGNATURE:
            raise InvalidSetting(f"{verifier.vkey} is not a witness's key: its type is not 0x04")
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole or not url.isascii() or not url.isprintable() or set(url) & set(" ?#@"):
            raise InvalidSetting(
                f"the URL of the witness {verifier.name} is not http(s)://HOST[:PORT][/PATH], without user or query"
            )
        return cls(url.rstrip("/"), verifier)

    def __str__(self) -> str:
        return f"{self.url}+{self.verifier.vkey}"


class WitnessOutcome(msgspec.Struct, frozen=True):
    """What came of asking a witness.

    kind: `cosigned`; `behind`: it stands at `size` and wants the proof from there; `ahead`: it cosigned a larger
    checkpoint of this log, `size`; `forked`: it cosigned one that this one does not continue; `refused`: it does not
    serve this log or this key; `false`: its answer does not hold; `away`: no answer, or one that asks to come back.
    detail: for people, where it did not cosign; begins with the witness's name.
    """

    witness: Witness
    kind: Literal["cosigned", "behind", "ahead", "forked", "refused", "false", "away"]
    detail: str = ""
    cosignature: Signature | None = None
    size: int | None = None


def judge(witness: Witness, note: Note, old: int, answer: Answer, now: float, skew: float = MAX_SKEW) -> WitnessOutcome:
    """What an answer to the request for `note` from the size `old` means. now: seconds since 1970 UTC.

    tlog-witness, "add-checkpoint". A same-size checkpoint with another root is a 422 in its version 1.1 and was a 409
    before: both are understood.
    """
    size = Checkpoint.of(note).size
    reason = _said(answer)

    def outcome(
        kind: Literal["behind", "ahead", "forked", "refused", "false", "away"], detail: str, known: int | None = None
    ) -> WitnessOutcome:
        return WitnessOutcome(witness, kind, f"{witness.verifier.name} {detail}", size=known)

    match answer.status:
        case 200:
            try:
                return WitnessOutcome(
                    witness, "cosigned", cosignature=_cosignature(witness, note, answer.body, now, skew)
                )
            except NoteRefused as error:
                return outcome("false", f"answered with what does not hold: {error}")
        case 409 if (known := _size(answer)) is not None and known != old:
            if known > size:
                return outcome(
                    "ahead",
                    f"has cosigned a checkpoint of size {known} of this log, which now comes with {size}",
                    known,
                )
            return outcome("behind", f"stands at size {known}, not {old}", known)
        case 409 | 422 if old == size and size:
            return outcome("forked", f"has cosigned a checkpoint of size {size} with another root", size)
        case 422 if old:
            return outcome("forked", f"has cosigned a checkpoint of size {old} that this one does not continue", old)
        case 403:
            return outcome("refused", f"does not know the key that signed the checkpoint{reason}")
        case 404:
            return outcome("refused", f"does not know this log{reason}")
        case 408 | 425 | 429 | 500 | 502 | 503 | 504 as status:
            return outcome("away", f"answered {status}{reason}")
        case status:
            return outcome("refused", f"answered {status}{reason}")


def _cosignature(witness: Witness, note: Note, body: bytes, now: float, skew: float) -> Signature:
    """The first of the witness's own lines, once all of them verified. Lines of other keys are ignored."""
    key = witness.verifier
    own = [each for each in parse_signatures(body) if (each.name, each.key_id) == (key.name, key.key_id)]
    if not own:
        raise NoteRefused(f"no signature of the key {key.name}+{key.key_id:08x}")
    for each in own:
        if not key.verifies(note.text, each):
            raise NoteRefused("its cosignature does not verify over this checkpoint")
        if abs(each.time - now) > skew:
            raise NoteRefused(f"its cosignature is of the time {each.time}, ours is {int(now)} (seconds since 1970)")
    return own[0]


def _size(answer: Answer) -> int | None:
    """The size that a 409 names."""
    if answer.kind.partition(";")[0].strip().lower() != SIZE_TYPE or not answer.body.endswith(b"\n"):
        return None
    return decimal(answer.body[:-1].decode("ascii", "replace"))


def _said(answer: Answer) -> str:
    text = " ".join(answer.body[:200].decode("utf-8", "replace").split())
    return f": {text}" if text else ""
