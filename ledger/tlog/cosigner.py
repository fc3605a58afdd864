"""What a witness decides and remembers: C2SP tlog-witness, "add-checkpoint", and tlog-cosignature. No network here.

For each log (told by its checkpoints' origin line) the witness keeps the newest checkpoint it cosigned. Another gets a
cosignature only where the log's key signed it and it is proven to continue that one, and only after it has been
written, synced and renamed into place: killed at any moment, the witness has forgotten nothing it gave away.

What it relies on is its folder. A witness that was given an older copy of it, or an empty one, can be led to cosign
two histories. It sees that the whole folder is gone (a disk that is not mounted) by a mark beside its key; a folder
restored from a backup it cannot see: then make a new key.

    FOLDER/witness                      the witness's public key
    FOLDER/lock                         locked (flock) by the one process that may use the folder
    FOLDER/<origin's SHA-256>           the newest checkpoint of a log, with the log's signatures and our cosignature
    FOLDER/<origin's SHA-256>.forked.1  evidence, where there is any: two checkpoints that the log's key signed for
    FOLDER/<origin's SHA-256>.forked.2  one size with two roots; the first such pair is kept
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from ledger.errors import EvidenceRefused, InvalidSetting, NoteRefused, ProofRefused, UsageError
from ledger.files import UNFINISHED, replace_file
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.merkle import EMPTY_ROOT, check_consistency
from ledger.tlog.note import (
    ED25519,
    Note,
    Signer,
    Verifier,
    cosign,
    parse_note,
    verified_by,
)
from ledger.tlog.witness_protocol import SIZE_TYPE, Answer, Request

_log = logging.getLogger("ledger.witness")


class Refusal(Exception):
    """Why there is no cosignature, as it is answered. Never leaves `Cosigner.answer`."""

    def __init__(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        super().__init__(text)
        self.answer = Answer(status, f"{text}\n".encode(), kind)


def opened(request: Request, logs: Mapping[str, Sequence[Verifier]]) -> tuple[Note, Checkpoint]:
    """The checkpoint of a request, once a key of its log signed it: what can be checked without remembering anything.

    The note holds that log's signatures only. Raises Refusal, in the document's order: 400, 404, 403, 400.
    """
    try:
        note = parse_note(request.note)
        checkpoint = Checkpoint.of(note)
    except NoteRefused as error:
        raise Refusal(400, str(error)) from None
    if checkpoint.origin not in logs:
        raise Refusal(404, "this witness does not know the log")
    keys = {(key.name, key.key_id) for key in logs[checkpoint.origin]}
    try:
        signed = verified_by(note, logs[checkpoint.origin])
    except NoteRefused as error:
        raise Refusal(403, str(error)) from None
    if not signed:
        raise Refusal(403, "no key that this witness knows for the log has signed the checkpoint")
    if request.old > checkpoint.size:
        raise Refusal(400, f"the old size, {request.old}, is larger than the checkpoint's, {checkpoint.size}")
    own = tuple(each for each in note.signatures if (each.name, each.key_id) in keys)
    return Note(note.text, own), checkpoint


def check_continues(request: Request, checkpoint: Checkpoint, latest: Checkpoint | None) -> None:
    """Checks that a checkpoint is proven to continue the newest cosigned one. latest: None if there is none yet.

    Raises Refusal: 409 with the size if the proof begins elsewhere, 422 if it does not hold.
    """
    size, root = (latest.size, latest.root) if latest else (0, EMPTY_ROOT)
    if request.old != size:
        raise Refusal(409, str(size), SIZE_TYPE)
    try:
        check_consistency(size, root, checkpoint.size, checkpoint.root, request.proof)
    except ProofRefused as error:
        raise Refusal(422, str(error)) from None


class _Log(msgspec.Struct):
    """A log as the witness remembers it. lock: held from reading `latest` until the new one is written."""

    path: Path
    lock: threading.Lock
    latest: Checkpoint | None = None
    note: bytes = b""
    time: int = 0


class Cosigner:
    """A witness on its folder. Its methods may be called from any thread."""

    def __init__(
        self,
        signer: Signer,
        logs: Iterable[Verifier],
        folder: Path,
        *,
        mark: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """logs: their keys, of type 0x01; several of one name are keys of one log. mark: a file that outlives the
        folder, for this witness's public key: see above. clock: seconds since 1970 UTC.

        Raises InvalidSetting if the folder is another witness's or lost, UsageError if another process uses it,
        NoteRefused if what it holds is damaged.
        """
        self._signer, self._clock = signer, clock
        self.verifier = Verifier.parse(signer.vkey).cosigner
        self._keys: dict[str, list[Verifier]] = {}
        for key in logs:
            if key.kind != ED25519:
                raise InvalidSetting(f"{key.vkey} is not a log's key: its type is not 0x01")
            if key.public_key == self.verifier.public_key:
                raise InvalidSetting(f"the log {key.name} has the witness's own key")
            self._keys.setdefault(key.name, []).append(key)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(folder)
        try:
            _check_identity(folder, self.verifier.vkey, mark)
            for unfinished in folder.glob(f".*{UNFINISHED}"):  # of a process that was killed
                unfinished.unlink()
            self._logs = {origin: self._read(folder, origin) for origin in self._keys}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another process have the folder."""
        with suppress(OSError):
            os.close(self._lock)

    def latest(self, origin: str) -> Checkpoint | None:
        """The newest checkpoint that was cosigned of a log that is served."""
        return self._logs[origin].latest

    def answer(self, body: bytes) -> Answer:
        """The answer to the body of an add-checkpoint. Raises OSError if it cannot be remembered: nothing is given.

        A clock that runs back is a 503: a cosignature says that at its time nothing newer was seen.
        """
        try:
            try:
                request = Request.parse(body)
            except EvidenceRefused as error:
                raise Refusal(400, str(error)) from None
            note, checkpoint = opened(request, self._keys)
            log = self._logs[checkpoint.origin]
            with log.lock:
                return self._cosigned(log, request, note, checkpoint)
        except Refusal as refusal:
            _log.info("Refused (%d): %s", refusal.answer.status, refusal)
            return refusal.answer

    def _cosigned(self, log: _Log, request: Request, note: Note, checkpoint: Checkpoint) -> Answer:
        self._keep_fork(log, note, checkpoint)
        check_continues(request, checkpoint, log.latest)
        now = int(self._clock())
        if now < log.time:
            _log.error("The clock says %d, before the last cosignature's %d: set it right", now, log.time)
            raise Refusal(503, "the witness's clock ran back")
        cosignature = cosign(note.text, self._signer, now)
        kept = Note(note.text, (*note.signatures, cosignature)).encode()
        replace_file(log.path, kept)
        log.latest, log.note, log.time = checkpoint, kept, now
        _log.info("Cosigned %s at size %d", checkpoint.origin, checkpoint.size)
        return Answer(200, cosignature.line)

    def _keep_fork(self, log: _Log, note: Note, checkpoint: Checkpoint) -> None:
        """Two roots of one size under the log's key prove by themselves that it shows two histories."""
        if log.latest is None or log.latest.size != checkpoint.size or log.latest.root == checkpoint.root:
            return
        _log.error(
            "%s shows two histories: two roots of size %d, signed by its key", checkpoint.origin, checkpoint.size
        )
        first, second = (log.path.with_name(f"{log.path.name}.forked.{number}") for number in (1, 2))
        if not second.exists():
            try:
                replace_file(first, log.note)
                replace_file(second, note.encode())
            except OSError as error:
                _log.error("The evidence could not be kept: %s", error)

    def _read(self, folder: Path, origin: str) -> _Log:
        path = folder / sha256(origin.encode()).hexdigest()
        log = _Log(path, threading.Lock())
        with suppress(FileNotFoundError):
            log.note = path.read_bytes()
            try:
                note = parse_note(log.note)
                log.latest = Checkpoint.of(note)
                if not verified_by(note, [self.verifier]) or log.latest.origin != origin:
                    raise NoteRefused("it is not what this witness wrote there")
            except NoteRefused as error:
                raise NoteRefused(f"{path}, the witness's memory of {origin}, is damaged: {error}") from None
            name = (self.verifier.name, self.verifier.key_id)
            log.time = max(each.time for each in note.signatures if (each.name, each.key_id) == name)
        return log


def _locked(folder: Path) -> int:
    """The folder's lock, held until this process ends, however it ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another witness serves {folder}: two on one folder would not know of each other") from None
    return descriptor


def _check_identity(folder: Path, vkey: str, mark: Path | None) -> None:
    identity, own = folder / "witness", f"{vkey}\n".encode()
    served = mark is not None and mark.exists() and mark.read_bytes() == own
    if identity.exists():
        if identity.read_bytes() != own:
            raise InvalidSetting(f"{folder} is the memory of another witness, not of {vkey}")
    elif served:
        raise InvalidSetting(
            f"this witness has served before ({mark} says so), and {folder} holds nothing of it: give it its folder "
            "again, or make a new key. A witness that forgot what it cosigned can be led to cosign another history"
        )
    elif any(path.name != "lock" and not path.name.endswith(UNFINISHED) for path in folder.iterdir()):
        raise InvalidSetting(f"{folder} is not empty, and not the memory of a witness")
    else:
        replace_file(identity, own)
        _log.info("%s begins in %s: it knows no checkpoint yet", vkey.partition("+")[0], folder)
    if mark is not None and not served:
        try:
            replace_file(mark, own)
        except OSError as error:
            _log.warning("%s cannot be written (%s): the loss of %s would not be noticed", mark, error, folder)
