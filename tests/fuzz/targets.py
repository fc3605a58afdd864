"""The parsers that take bytes, and what must hold of whatever they accept.

A check raises one of the package's own errors for what it refuses. Anything else that comes out of it is a fault:
another exception, or an assertion about what was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from ledger.checkpoints.proof import Consistency, Proof, check_consistency_proof, check_proof
from ledger.errors import EvidenceRefused, InvalidSetting, LedgerError, NoteRefused
from ledger.events import Entry
from ledger.format.chain import check_entry
from ledger.format.decode import parse_envelope
from ledger.ops.redact import without_literals
from ledger.stream.wire import parse
from ledger.tlog.checkpoint import Checkpoint, cosigned_by, open_checkpoint
from ledger.tlog.file_signer import FileSigner, new_cosigner, parse_cosigner
from ledger.tlog.merkle import check_consistency, check_inclusion, leaf_hash
from ledger.tlog.note import Verifier, base64_bytes, base64_text, decimal, parse_note, parse_signatures
from ledger.tlog.tiles import Tile, decode_bundle, edge_root, encode_bundle
from ledger.tlog.witness_outcome import Witness, judge
from ledger.tlog.witness_protocol import SIZE_TYPE, Answer, Request
from tests.fuzz import seeds
from tests.support.logs import TIME


class Target(NamedTuple):
    """seeds: sound inputs. check: tries one, and raises what is not LedgerError where there is a fault."""

    seeds: Callable[[], Sequence[bytes]]
    check: Callable[[bytes], None]


TARGETS: dict[str, Target] = {}


def target(sound: Callable[[], Sequence[bytes]]) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    def add(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[check.__name__] = Target(sound, check)
        return check

    return add


def text_target(sound: Callable[[], Sequence[str]]) -> Callable[[Callable[[str], None]], None]:
    """A target that takes text: bytes that are no UTF-8 come as lone surrogates, as in a command's arguments."""

    def add(check: Callable[[str], None]) -> None:
        TARGETS[check.__name__] = Target(
            lambda: [each.encode() for each in sound()], lambda data: check(data.decode("utf-8", "surrogateescape"))
        )

    return add


def try_out(name: str, data: bytes) -> None:
    """One input; what is refused as it should be says nothing."""
    try:
        TARGETS[name].check(data)
    except LedgerError as error:
        str(error).encode(errors="surrogateescape")


# ------------------------------------------------------------------------------------------------- notes, checkpoints


@target(lambda: [*seeds.notes(), seeds.strangers_note()])
def note(data: bytes) -> None:
    parsed = parse_note(data)
    assert parsed.encode() == data
    assert parse_note(parsed.encode()) == parsed
    for signature in parsed.signatures:
        try:
            assert 0 <= signature.time < 2**63
        except NoteRefused:
            continue


@target(lambda: [note.partition(b"\n\n")[2] for note in seeds.notes()])
def signatures(data: bytes) -> None:
    assert b"".join(each.line for each in parse_signatures(data)) == data


@target(seeds.checkpoint_texts)
def checkpoint_text(data: bytes) -> None:
    parsed = Checkpoint.parse(data)
    assert data.startswith(f"{parsed.origin}\n{parsed.size}\n{base64_text(parsed.root)}\n".encode())
    assert Checkpoint.parse(parsed.text) == parsed


@target(lambda: [*seeds.notes(), seeds.strangers_note()])
def signed_checkpoint(data: bytes) -> None:
    """What passes is what was signed."""
    keys, witnesses = seeds.trusted()
    opened = open_checkpoint(data, None, keys, witnesses, 0)
    assert opened == seeds.log().checkpoint(opened.size) and opened.size in seeds.SIZES
    cosigned = cosigned_by(parse_note(data), witnesses)
    assert set(cosigned) <= set(witnesses)


@text_target(seeds.public_keys)
def public_key(text: str) -> None:
    key = Verifier.parse(text)
    assert key.vkey == text
    assert Verifier.parse(key.vkey) == key
    assert not key.verifies(b"text\n", parse_note(seeds.notes()[1]).signatures[0])


@text_target(seeds.private_keys)
def private_key(text: str) -> None:
    try:
        signer = FileSigner.parse(text)
    except InvalidSetting as error:
        assert all(key.rpartition("+")[2] not in str(error) for key in seeds.private_keys())
        raise
    assert signer.private_text == text.removesuffix("\n")


@text_target(seeds.cosigner_keys)
def cosigner_key(text: str) -> None:
    signer = parse_cosigner(text)
    seed = base64_bytes(text.removesuffix("\n").split("+", 4)[4])
    assert seed is not None and new_cosigner(signer.name, seed[1:])[0] == text.removesuffix("\n")


@text_target(lambda: [*map(str, (0, 1, 2**31, 2**63 - 1)), *(base64_text(bytes(size)) for size in (0, 1, 31, 32, 33))])
def number_and_base64(text: str) -> None:
    number, data = decimal(text), base64_bytes(text)
    assert number is None or (str(number) == text and 0 <= number < 2**63)
    assert data is None or base64_text(data) == text


# -------------------------------------------------------------------------------------------------------------- proofs


@target(seeds.proofs)
def proof_file(data: bytes) -> None:
    parsed = Proof.parse(data)
    assert Proof.parse(parsed.encode()) == parsed


@target(seeds.proofs)
def proof(data: bytes) -> None:
    """What passes is proven of an entry of the log, and of no other."""
    keys, witnesses = seeds.trusted()
    proven = check_proof(data, None, keys, witnesses, 0)
    index = proven.envelope.position - 1
    assert proven.raw == seeds.log().envelopes[index]
    assert proven.body in (None, seeds.log().body(index))
    assert proven.checkpoint == seeds.log().checkpoint(proven.checkpoint.size)


@target(seeds.consistency_proofs)
def consistency_file(data: bytes) -> None:
    parsed = Consistency.parse(data)
    assert Consistency.parse(parsed.encode()) == parsed


@target(seeds.consistency_proofs)
def consistency(data: bytes) -> None:
    keys, witnesses = seeds.trusted()
    old, new = check_consistency_proof(data, None, keys, witnesses, 0)
    assert old.size <= new.size
    assert (old, new) == (seeds.log().checkpoint(old.size), seeds.log().checkpoint(new.size))


@target(lambda: [b"".join(seeds.log().path(4))])
def inclusion(data: bytes) -> None:
    """Hashes as they come out of a file: any number, the last of any length."""
    path = [data[at : at + 32] for at in range(0, len(data), 32)]
    check_inclusion(4, seeds.SIZES[-1], leaf_hash(seeds.log().envelopes[4]), path, seeds.log().checkpoint().root)
    assert path == seeds.log().path(4)


@target(lambda: [b"".join(seeds.log().consistency(7, 11))])
def continuation(data: bytes) -> None:
    path = [data[at : at + 32] for at in range(0, len(data), 32)]
    old, new = seeds.log().checkpoint(7), seeds.log().checkpoint(11)
    check_consistency(old.size, old.root, new.size, new.root, path)
    assert path == seeds.log().consistency(7, 11)


# --------------------------------------------------------------------------------------------------------------- tiles


@text_target(lambda: ["tile/0/x001/x234/067", "tile/3/255.p/17", "tile/entries/000", "tile/7/127.p/255"])
def tile_path(text: str) -> None:
    tile = Tile.parse(text)
    assert tile.path == text
    assert Tile.parse(tile.path) == tile


@target(lambda: [encode_bundle(seeds.log().envelopes[:count]) for count in (1, 3, 11)] + [encode_bundle([b""] * 256)])
def bundle_of_entries(data: bytes) -> None:
    entries = decode_bundle(data)
    assert encode_bundle(entries) == data


@target(lambda: [b"".join(seeds.log().tree.edge.values())])
def edge(data: bytes) -> None:
    """A partial tile, as a database may show it."""
    size = seeds.log().tree.size
    if edge_root({0: data}, size) == seeds.log().checkpoint().root:
        assert data == seeds.log().tree.edge[0]


# ------------------------------------------------------------------------------------------------- envelopes, entries


@target(seeds.envelopes)
def envelope(data: bytes) -> None:
    try:
        said = parse_envelope(data)
    except ValueError as error:
        raise EvidenceRefused(str(error)) from None
    assert said.encode() == data
    assert parse_envelope(said.encode()) == said


_PART = b"\x1e"


@target(lambda: [_PART.join(parts) for parts in seeds.wires()])
def stream_entry(data: bytes) -> None:
    """An entry as Redis hands it out: whatever passes the check is one that was published."""
    parts = data.split(_PART)
    names = [b"envelope", b"body", b"hash"]
    fields = [each for pair in zip(names, parts, strict=False) for each in pair] + parts[3:]
    entry = parse(fields)
    if entry is None:
        return
    check_bodies(entry)
    check_entry(entry)
    sound = [parse([names[0], envelope, names[1], body, names[2], hash_]) for envelope, body, hash_ in seeds.wires()]
    assert entry in sound or entry in map(_erased, filter(None, sound))


def _erased(entry: Entry) -> Entry:
    """Whether a body may be missing is not seen from the entry."""
    return msgspec.structs.replace(entry, before_json=None, after_json=None, metadata_json=None, salt=None)


def check_bodies(entry: Entry) -> None:
    """A body that cannot be read is said to be so."""
    for name in ("before", "after", "metadata"):
        try:
            getattr(entry, name)
        except LedgerError:
            continue


# ----------------------------------------------------------------------------------------------------------- witnesses


@target(seeds.requests)
def witness_request(data: bytes) -> None:
    assert Request.parse(data).encode() == data


@text_target(
    lambda: [
        f"{url}+{seeds.log().witnesses[0].vkey}"
        for url in ("https://witness.example", "http://127.0.0.1:7180/a/prefix/", "http://[::1]:80")
    ]
)
def witness(text: str) -> None:
    parsed = Witness.parse(text)
    assert Witness.parse(str(parsed)) == parsed


@target(
    lambda: [
        *(b"200 text/plain " + line for line in seeds.notes()[3].partition(b"\n\n")[2].splitlines(keepends=True)),
        *(b"409 text/x.tlog.size " + size for size in (b"4\n", b"7\n", b"11\n", b"0\n")),
        *(b"%d text/plain no\n" % status for status in (400, 403, 404, 409, 422, 429, 500, 503)),
    ]
)
def witness_answer(data: bytes) -> None:
    """A cosignature is kept only where it verifies over this checkpoint."""
    head, _, body = data.partition(b" ")
    kind, _, body = body.partition(b" ")
    status = int(head) if head.isdigit() and len(head) < 4 else 200
    asked, parsed = Witness("https://witness.example", seeds.log().witnesses[0]), parse_note(seeds.log().note(4, 0))
    outcome = judge(asked, parsed, 0, Answer(status, body, kind.decode("latin-1")), TIME)
    if outcome.kind == "cosigned":
        assert outcome.cosignature is not None
        assert asked.verifier.verifies(parsed.text, outcome.cosignature) and abs(outcome.cosignature.time - TIME) <= 300
    if outcome.kind in ("behind", "ahead"):
        assert kind.decode("latin-1").partition(";")[0].strip().lower() == SIZE_TYPE


# ----------------------------------------------------------------------------------------------------------------- SQL


@text_target(
    lambda: [
        "select * from t where a = 'it''s' and b = $1 -- secret\n and c = E'\\'x' /* /* nested */ */",
        "insert into \"T\" values ($tag$secret$tag$, U&'d\\0061t', 1e10, .5, 0x1F)",
    ]
)
def sql(text: str) -> None:
    shown = without_literals(text)
    assert len(shown) <= 200 and "\n" not in shown
    assert without_literals(shown.removesuffix("…")) is not None
