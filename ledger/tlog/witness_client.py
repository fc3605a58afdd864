"""Asking witnesses for their cosignatures, as a log does: C2SP tlog-witness, "add-checkpoint".

    witnesses = [Witness.parse("https://witness.example+witness.example/w1+1a2b3c4d+BA…")]
    outcomes = gather(note, witnesses, proof)      # asks all of them at once; never raises for what they answer
    note = cosigned(note, outcomes)                # the note with the cosignatures that came: keep it
    demand(note, witnesses, quorum, outcomes)      # raises where fewer than `quorum` stand on it

What is sent and what an answer means are functions over bytes; only `_Call` does input and output. A cosignature is
kept once it verified under the witness's key over this very text, with a time near ours: nothing that a witness
answers is believed otherwise, so the connection need not be trusted.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPException
from urllib.parse import urlsplit

from ledger.errors import CosignaturesMissing, InvalidSetting, WitnessRefused
from ledger.tlog.checkpoint import Checkpoint, cosigned_by
from ledger.tlog.http_client import connection_to
from ledger.tlog.note import Note, parse_note
from ledger.tlog.witness_outcome import MAX_SKEW, Witness, WitnessOutcome, judge
from ledger.tlog.witness_protocol import PATH, Answer, Cosigned, Prove, Request

TIMEOUT = 10.0
"""Seconds that a witness has for an answer."""

_MAX_ANSWER = 65_536
_ROUNDS = 4  # one to learn the witness's size, one to continue it, and two that others may win in between


def gather(
    note: bytes,
    witnesses: Iterable[Witness],
    proof: Prove,
    *,
    sizes: Mapping[str, int] | None = None,
    timeout: float = TIMEOUT,
    skew: float = MAX_SKEW,
) -> list[WitnessOutcome]:
    """Asks all witnesses at once to cosign a signed checkpoint; what came of it, in their order.

    proof: called in this thread, with sizes up to the checkpoint's. sizes: what the witnesses (by vkey) are believed to
    have cosigned last, which saves a round; by default 0, and they say it themselves. timeout: seconds for each answer.
    Raises NoteRefused if `note` is no checkpoint; never for what a witness does.
    """
    parsed = parse_note(note)
    size = Checkpoint.of(parsed).size
    places = list(dict.fromkeys(witnesses))
    olds = {witness: min((sizes or {}).get(witness.verifier.vkey, 0), size) for witness in places}
    outcomes: dict[Witness, WitnessOutcome] = {}
    for _ in range(_ROUNDS):
        asked = [witness for witness in places if witness not in outcomes or outcomes[witness].kind == "behind"]
        proofs = {old: tuple(proof(old)) if 0 < old < size else () for old in {olds[witness] for witness in asked}}
        calls = [_Call(each.url, Request(olds[each], proofs[olds[each]], note).encode(), timeout) for each in asked]
        for witness, answer in zip(asked, _answers(calls, timeout), strict=True):
            if isinstance(answer, str):
                outcomes[witness] = WitnessOutcome(witness, "away", f"{witness.verifier.name} {answer}")
                continue
            outcomes[witness] = outcome = judge(witness, parsed, olds[witness], answer, time.time(), skew)
            if outcome.size is not None and outcome.kind == "behind":
                olds[witness] = outcome.size
    return [outcomes[witness] for witness in places]


def cosigned(note: bytes, outcomes: Iterable[WitnessOutcome]) -> bytes:
    """The note with the cosignatures that came, each in the place of an older one of the same key."""
    parsed = parse_note(note)
    new = {(each.name, each.key_id): each for outcome in outcomes if (each := outcome.cosignature) is not None}
    kept = [each for each in parsed.signatures if (each.name, each.key_id) not in new]
    return Note(parsed.text, (*kept, *new.values())).encode()


def demand(note: bytes, witnesses: Sequence[Witness], quorum: int, outcomes: Sequence[WitnessOutcome] = ()) -> None:
    """Checks that at least `quorum` different keys of the witnesses stand under the note.

    outcomes: of this round. A witness that says in it that it knows another history of the log does not count, whatever
    it cosigned before: so a backup that was brought back with its cosigned checkpoints is found.
    Raises WitnessRefused if one says so and the others are too few, else CosignaturesMissing; NoteRefused if a
    cosignature is false, InvalidSetting if so many can never be had.
    """
    cosigners = cosigned_by(parse_note(note), [witness.verifier for witness in witnesses], quorum)
    denied = {each.witness.verifier.public_key: each for each in outcomes if each.kind in ("ahead", "forked")}
    cosigners = [verifier for verifier in cosigners if verifier.public_key not in denied]
    if len(cosigners) >= quorum:
        return
    problems = "; ".join(outcome.detail for outcome in outcomes if outcome.detail)
    message = f"{len(cosigners)} of the {quorum} witnesses that are demanded vouch for the checkpoint"
    if denied:
        ahead = [each.size or 0 for each in denied.values() if each.kind == "ahead"]
        raise WitnessRefused(f"{message}: {problems}", max(ahead) if len(ahead) == len(denied) else None)
    raise CosignaturesMissing(f"{message}{problems and ': '}{problems}. The checkpoint is signed: ask again later")


class _Call(threading.Thread):
    """One POST, in a thread that nobody waits for longer than its time: a witness may send a byte a minute."""

    def __init__(self, url: str, body: bytes, timeout: float) -> None:
        super().__init__(name="witness", daemon=True)
        self._url, self._body, self._timeout = url, body, timeout
        self._socket: socket.socket | None = None
        self.answer: Answer | str = ""

    def run(self) -> None:
        try:
            self.answer = self._post()
        except (OSError, HTTPException, ValueError) as error:
            self.answer = f"does not answer: {error or type(error).__name__}"

    def stop(self) -> None:
        """Ends what it still waits for."""
        if (opened := self._socket) is not None:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def _post(self) -> Answer:
        parts = urlsplit(self._url)
        connection = connection_to(parts, self._timeout, 2 * _MAX_ANSWER)
        with closing(connection):
            connection.connect()
            self._socket = connection.sock
            headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "auditledger", "Connection": "close"}
            connection.request("POST", parts.path + PATH, self._body, headers)
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER + 1)
            if len(body) > _MAX_ANSWER:
                raise ValueError(f"its answer is longer than {_MAX_ANSWER} bytes")
            if response.length:
                raise ValueError("its answer was cut off")
            return Answer(response.status, body, response.headers.get("Content-Type", ""))


def _answers(calls: Sequence[_Call], timeout: float) -> list[Answer | str]:
    """Makes the calls at once. A text is why there was no answer."""
    deadline = time.monotonic() + timeout
    for call in calls:
        call.start()
    answers: list[Answer | str] = []
    for call in calls:
        call.join(max(0.0, deadline - time.monotonic()))
        if call.is_alive():
            call.stop()
            answers.append(f"did not answer within {timeout:g} s")
        else:
            answers.append(call.answer)
    return answers


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
        size = Checkpoint.of(note).size
        made = [outcome.witness for outcome in outcomes if outcome.cosignature is not None]
        self._sizes |= {witness.verifier.vkey: size for witness in made}  # so that the next proof fits at once
        failed = [(outcome.witness.verifier.name, outcome.detail) for outcome in outcomes if outcome.detail]
        return Cosigned(
            cosigned(note, outcomes), lambda kept: demand(kept, self.witnesses, self.quorum, outcomes), failed
        )
