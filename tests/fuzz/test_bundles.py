"""Exported bundles after damage and malice, through the command line's own code: whatever was changed in the folder is
exit 1, what cannot be asked for is exit 2, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.events import GENESIS
from ledger.export.manifest import BODIES, ENVELOPES, MANIFEST, Manifest
from ledger.export.public_log import CHECKPOINT, LayoutWriter
from ledger.format import canonical
from tests.fuzz import seeds
from tests.fuzz.json_texts import DEEP, strained
from tests.fuzz.mutations import mutated
from tests.fuzz.profile import bounded, fuzz
from tests.support.cli import Ran, run
from tests.support.logs import Log


def write(folder: Path, log: Log, bodies: list[bytes], note: bytes | None) -> None:
    """A bundle of the log, as an export would write it."""
    folder.mkdir(parents=True)
    (folder / ENVELOPES).write_bytes(b"".join(envelope + b"\n" for envelope in log.envelopes))
    (folder / BODIES).write_bytes(b"".join(body + b"\n" for body in bodies))
    count, head = len(log.envelopes), canonical.digest(log.envelopes[-1])
    manifest = Manifest(1, log.name, 1, count, count, bodies.count(b""), GENESIS.hex(), head.hex())
    (folder / MANIFEST).write_bytes(manifest.encode())
    if note is not None:
        layout = LayoutWriter(folder, note, count)
        for position, envelope in enumerate(log.envelopes, 1):
            layout.take(position, envelope)
        layout.end()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "sound"
    log = seeds.log()
    write(folder, log, [log.body(index) for index in range(len(log.envelopes))], log.note())
    return folder


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(sound, tmp_path / "bundle")
    return tmp_path / "bundle"


def keys() -> list[str]:
    return [f"--key={seeds.log().key.vkey}", *(f"--witness={each.vkey}" for each in seeds.log().witnesses)]


def verified(folder: Path, *options: str) -> Ran:
    """`verify --bundle`, whose --json must be JSON whatever is in the folder."""
    ran = run("--json", "verify", "--bundle", str(folder), *options)
    assert ran.code in (0, 1, 2), ran
    if ran.out:
        assert ran.json["ok"] == (ran.code == 0)
    else:
        assert ran.code and ran.error
    return ran


def test_the_bundle_is_sound(bundle: Path) -> None:
    assert verified(bundle).code == verified(bundle, *keys()).code == 0


def test_a_change_of_any_file_is_exit_1(sound: Path, bundle: Path) -> None:
    contents = {path.relative_to(sound): path.read_bytes() for path in sorted(sound.rglob("*")) if path.is_file()}
    everything = list(contents.values())
    manifest = contents[Path(MANIFEST)]

    @fuzz(40)
    @given(
        name=st.sampled_from(sorted(contents)),
        data=mutated(everything) | strained([manifest]) | strained(contents[Path(ENVELOPES)].splitlines()),
        signed=st.booleans(),
    )
    @example(Path(MANIFEST), manifest.replace(b'"first": 1', b'"first": 2'), True)
    @example(Path(MANIFEST), manifest.replace(b'"last": 11', b'"last": ' + b"9" * 4300), False)
    @example(Path(MANIFEST), manifest.replace(b'"version": 1', b'"version": 2'), False)
    @example(Path(MANIFEST), manifest.replace(b'",\n "head"', b'\\n",\n "head"'), False)
    @example(Path(MANIFEST), b"[" * 100_000, False)
    @example(Path(MANIFEST), manifest.replace(b'"main"', b'"\xff"'), False)
    @example(Path(ENVELOPES), DEEP[0].encode(), False)
    @example(Path(ENVELOPES), b"x" * 3_000_000, False)
    @example(Path(CHECKPOINT), b"", True)
    def check(name: Path, data: bytes, signed: bool) -> None:
        path = bundle / name
        path.write_bytes(data)
        with bounded():
            ran = verified(bundle, *(keys() if signed else ()))
        path.write_bytes(contents[name])
        assert ran.code == (0 if data == contents[name] else 1), ran

    check()


def test_a_position_that_no_database_has(tmp_path: Path) -> None:
    """Numbers that Python itself refuses to print."""
    log = Log(3)
    huge = json.loads(log.envelopes[2])
    text = json.dumps(huge, separators=(",", ":")).replace('"position":3', '"position":' + "9" * 4300)
    log.envelopes[2] = text.encode()
    write(tmp_path / "bundle", log, [log.body(index) for index in range(3)], None)
    (tmp_path / "bundle" / ENVELOPES).write_bytes(b"".join(line + b"\n" for line in [*log.envelopes, b"{}"]))
    assert verified(tmp_path / "bundle").code == 1


# --------------------------------------------------------------------------------------------------- what lies in there


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


PLACES = (MANIFEST, ENVELOPES, BODIES, CHECKPOINT, "tile/0/000.p/11", "tile/entries/000.p/11")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("change", [_fifo, _folder, _endless, _loop, Path.unlink])
@pytest.mark.timeout(60)
def test_what_is_no_file(bundle: Path, name: str, change: Callable[[Path], Any]) -> None:
    change(bundle / name)
    ran = verified(bundle, *keys())
    no_bundle = name == MANIFEST and change in (Path.unlink, _loop)
    assert ran.code == (2 if no_bundle else 1), ran


def test_folders_within_folders(bundle: Path) -> None:
    """Deeper than Python calls itself, and than a path may be long."""
    descriptor = os.open(bundle / "tile", os.O_RDONLY)
    try:
        for _ in range(2100):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    try:
        assert verified(bundle).code == 1
    finally:
        subprocess.run(["rm", "-rf", bundle], check=True)  # Python's own ways call themselves for each folder


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"a\nb", b"\x1b[2J", b"x" * 255, b"000", b"..."])
def test_names_that_are_no_text(bundle: Path, name: bytes) -> None:
    (Path(os.fsdecode(os.fsencode(bundle / "tile") + b"/" + name))).touch()
    ran = verified(bundle)
    assert ran.code == 1 and "is no tile" in ran.json["findings"][0]["detail"]
    assert run("verify", "--bundle", str(bundle)).code == 1


def test_a_folder_whose_name_is_no_text(sound: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    shutil.copytree(sound, folder)
    assert verified(folder).code == 0
    (folder / BODIES).unlink()
    assert verified(folder).code == 1
    (folder / MANIFEST).unlink()
    assert verified(folder).code == 2


# ------------------------------------------------------------------------------------- a ledger that lies consistently


@st.composite
def forged_logs(draw: st.DrawFn) -> tuple[Log, list[bytes], bool]:
    """A log whose owner makes of its newest entry what he likes, links and signs it. Does the entry keep to the format?

    The body is hashed as it stands, so that its hash says nothing against it.
    """
    log = Log(3)
    envelope, body = log.envelopes[2], log.body(2)
    body = draw(st.just(body) | strained([body]) | mutated([body], 2)).replace(b"\n", b" ")
    envelope = envelope.replace(canonical.digest(log.body(2)).hex().encode(), canonical.digest(body).hex().encode())
    changed = draw(st.just(envelope) | strained([envelope], 1) | mutated([envelope], 1)).replace(b"\n", b" ")
    forged = Log(2)
    forged.grow([changed])
    return forged, [log.body(0), log.body(1), body], changed == envelope and body == log.body(2)


def _is_format(envelope: bytes, body: bytes) -> bool:
    """As docs/format.md says it, with Python's own JSON."""
    try:
        said = json.dumps(json.loads(envelope), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return said.encode() == envelope and list(json.loads(body)) == ["after", "before", "metadata", "salt"]
    except (ValueError, RecursionError):
        return False


@fuzz(25)
@given(forged_logs())
def test_a_log_that_signs_anything(forged: tuple[Log, list[bytes], bool]) -> None:
    """A proof holds only where the entry is one of the format, however well it is hashed and signed."""
    log, bodies, sound = forged
    for body in (None, bodies[2]):
        file = msgspec.structs.replace(log.proof(2), body=body).encode()
        with bounded():
            ran = run("--json", "check", "-", *keys(), stdin=file)
            assert run("check", "-", *keys(), stdin=file).code == ran.code
        assert ran.code in ((0,) if sound else (0, 1)), ran
        if ran.code == 0:
            assert _is_format(log.envelopes[2], body or log.body(2))
            assert (ran.json["position"], ran.json["ledger"], ran.out.count("\n")) == (3, "main", 1)


def test_a_body_that_is_more_than_a_body() -> None:
    """Its hash is signed, so only its form says that it would write other members of `check --json` anew."""
    for body in (b'null,"position":7,"ledger":"other"', b"\xff", b"", b"nonsense", DEEP[0].encode(), b"{}", b"null"):
        log = Log(2)
        said = Log(3).envelopes[2]
        log.grow([said.replace(canonical.digest(log.body(2)).hex().encode(), canonical.digest(body).hex().encode())])
        file = msgspec.structs.replace(log.proof(2), body=body).encode()
        for options in (["--json"], []):
            assert run(*options, "check", "-", *keys(), stdin=file).code == 1, body[:80]
