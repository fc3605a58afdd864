"""Options that several commands share: who signs, where it is published, whose signatures count, metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.context import Shared
from ledger.drivers.pools import Connector

if TYPE_CHECKING:
    from ledger.checkpoints.signer import Checkpointer
    from ledger.tlog.witness_client import Witnesses
import sys
from typing import TYPE_CHECKING

from ledger.cli.params import Address
from ledger.errors import UsageError
from ledger.verify.checkpoints import Trust

if TYPE_CHECKING:
    pass

FILE = click.Path(dir_okay=False, path_type=Path)


def signing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--key, --publish, --require, --witness, --quorum: arguments keys, publish, require, witnesses, quorum."""
    for option in (
        click.option(
            "--quorum", type=click.IntRange(0, 1000), metavar="N",
            help="How many of the witnesses must cosign, else exit 3; by default all.",
        ),
        click.option(
            "--witness", "witnesses", multiple=True, metavar="URL+VKEY",
            help="A witness to ask for its cosignature, as 'witness serve' prints it. Repeat for more.",
        ),
        click.option(
            "--require", type=click.IntRange(0, 1000), metavar="N",
            help="How many of the places must take it, else exit 3; by default all.",
        ),
        click.option(
            "--publish", multiple=True, metavar="DIR|URL|redis",
            help="Where to: a folder, an http(s) URL that takes a POST, the ledger's Redis. Repeat for more.",
        ),
        click.option(
            "--key", "keys", type=FILE, multiple=True, metavar="FILE",
            help="The key's file; by default <home>/<ledger>.key. Give both while a key is rotated.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def key_file(shared: Shared, ledger: str) -> Path:
    """Where a ledger's key lies unless it is said."""
    return shared.embedded_home() / f"{ledger}.key"


def cosign_option(witnesses: Sequence[str], quorum: int | None) -> Witnesses | None:
    """Who is asked for cosignatures. Raises InvalidSetting."""
    if not witnesses and quorum is None:
        return None
    from ledger.tlog.witness_client import Witnesses  # noqa: PLC0415 - loads what asks over HTTP

    return Witnesses(witnesses, quorum)


def checkpointers(
    shared: Shared,
    connector: Connector,
    keys: Sequence[Path],
    publish: Sequence[str],
    require: int | None,
    witnesses: Sequence[str],
    quorum: int | None,
) -> list[Checkpointer]:
    """One for each ledger that the keys are named for; with --ledger, of that ledger alone."""
    from ledger.checkpoints.keys import Key, key_of  # noqa: PLC0415
    from ledger.checkpoints.signer import Checkpointer  # noqa: PLC0415 - takes long to load

    named = shared.names()
    found: dict[str, list[Key]] = {}
    for path in keys or [key_file(shared, connector.settings.name)]:
        key = key_of(path)
        ledger = connector.settings.name if named else key.signer.name.rpartition("/")[2]
        found.setdefault(ledger, []).append(key)
    return [
        Checkpointer(
            connector,
            several,
            name=ledger,
            publish=publish,
            require=require,
            cosign=cosign_option(witnesses, quorum),
        )
        for ledger, several in found.items()
    ]


MOST = 4_000_000
"""Bytes of a file of evidence that are read at most: proof.MAX_FILE."""


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--key, --witness, --quorum, as `keys`, `witnesses` and `quorum`."""
    for option in (
        click.option(
            "--quorum", type=click.IntRange(0, 100), metavar="N",
            help="How many of the witnesses must have cosigned; else all of them.",
        ),
        click.option("--witness", "witnesses", multiple=True, metavar="VKEY", help="A witness's public key."),
        click.option("--key", "keys", multiple=True, metavar="VKEY", help="The log's public key."),
    ):  # fmt: skip
        command = option(command)
    return command


def trust_of(keys: tuple[str, ...], witnesses: tuple[str, ...], quorum: int | None) -> Trust:
    """Raises InvalidSetting for keys that are none."""
    for key in (*keys, *witnesses):
        if "+" not in key and Path(key).exists():
            raise click.UsageError(f"{key} is a file: give the public key itself, the line that 'keygen' printed")
    if witnesses and not keys:
        raise click.UsageError("--witness goes with --key: a witness vouches for what the log signed")
    return Trust.given(keys, witnesses, quorum)


def read_evidence(file: str) -> bytes:
    """The content of a file; '-' is stdin. Raises UsageError where it cannot be read, or is far too long."""
    try:
        if file == "-":
            if sys.stdin is None:
                raise UsageError("stdin is closed: there is nothing to read from '-'")
            data = sys.stdin.buffer.read(MOST + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MOST + 1)
    except IsADirectoryError:
        hint = (
            f": check a bundle with 'auditledger verify --bundle {file}'"
            if Path(file, "manifest.json").exists()
            else ""
        )
        raise UsageError(f"{file} is a folder, not a proof or a checkpoint{hint}") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise UsageError(f"{file} is empty: no proof or checkpoint is")
    if 0 < data.count(b"\n") == data.count(b"\r\n"):  # all of them: a single one is damage, which others find
        raise UsageError(
            f"{file} has Windows line ends (CR LF), which its signatures do not cover: something on its way converted "
            "it. Get it again as it was, or convert it back with 'dos2unix'"
        )
    if len(data) > MOST:
        raise UsageError(f"{file} is longer than {MOST:,} bytes: no proof or checkpoint is")
    return data


def _keep(context: click.Context, option: click.Parameter, value: tuple[str, int] | None) -> None:
    context.ensure_object(Shared).metrics = value


metrics_port = click.option(
    "--metrics-port", type=Address(), metavar="[HOST:]PORT", expose_value=False, callback=_keep,
    help="Serve metrics for Prometheus; HOST is 127.0.0.1 unless given.",
)  # fmt: skip
