"""Options that several commands share: signing keys, publishers, witnesses, trusted keys, metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.context import Shared
from ledger.cli.params import Address
from ledger.drivers.pools import Connector
from ledger.errors import UsageError
from ledger.verify.checkpoints import Trust

if TYPE_CHECKING:
    from ledger.checkpoints.signer import Checkpointer
    from ledger.tlog.witness_client import Witnesses

FILE = click.Path(dir_okay=False, path_type=Path)


def signing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --key, --publish, --require, --witness, --quorum, as keys, publish, require, witnesses, quorum."""
    for option in (
        click.option(
            "--quorum", type=click.IntRange(0, 1000), metavar="N",
            help="Witnesses that must cosign, else exit code 3; default all.",
        ),
        click.option(
            "--witness", "witnesses", multiple=True, metavar="URL+VKEY",
            help="A witness to ask for a cosignature, as printed by 'witness serve'. Repeatable.",
        ),
        click.option(
            "--require", type=click.IntRange(0, 1000), metavar="N",
            help="Publishers that must accept the checkpoint, else exit code 3; default all.",
        ),
        click.option(
            "--publish", multiple=True, metavar="DIR|URL|redis",
            help="Publish to a folder, by POST to an http(s) URL, or to the ledger's Redis. Repeatable.",
        ),
        click.option(
            "--key", "keys", type=FILE, multiple=True, metavar="FILE",
            help="The key file; default <home>/<ledger>.key. Give both keys during a rotation.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def key_file(shared: Shared, ledger: str) -> Path:
    """The default path of a ledger's key."""
    return shared.embedded_home() / f"{ledger}.key"


def cosign_option(witnesses: Sequence[str], quorum: int | None) -> Witnesses | None:
    """The witnesses to ask for cosignatures; None if none are given. Raises InvalidSetting."""
    if not witnesses and quorum is None:
        return None
    from ledger.tlog.witness_client import Witnesses  # noqa: PLC0415 - slow to load

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
    """One for each ledger named by the keys; with --ledger, for that ledger alone. Raises InvalidSetting."""
    from ledger.checkpoints.keys import Key, key_of  # noqa: PLC0415
    from ledger.checkpoints.signer import Checkpointer  # noqa: PLC0415 - slow to load

    named = shared.names()
    by_ledger: dict[str, list[Key]] = {}
    for path in keys or [key_file(shared, connector.settings.name)]:
        key = key_of(path)
        ledger = connector.settings.name if named else key.signer.name.rpartition("/")[2]
        by_ledger.setdefault(ledger, []).append(key)
    return [
        Checkpointer(
            connector,
            several,
            name=ledger,
            publish=publish,
            require=require,
            cosign=cosign_option(witnesses, quorum),
        )
        for ledger, several in by_ledger.items()
    ]


MOST = 4_000_000
"""Largest size of a proof or checkpoint, in bytes: proof.MAX_FILE."""


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --key, --witness and --quorum, as keys, witnesses and quorum."""
    for option in (
        click.option(
            "--quorum", type=click.IntRange(0, 100), metavar="N",
            help="Witnesses that must have cosigned; default all.",
        ),
        click.option("--witness", "witnesses", multiple=True, metavar="VKEY", help="A witness's public key."),
        click.option("--key", "keys", multiple=True, metavar="VKEY", help="The log's public key."),
    ):  # fmt: skip
        command = option(command)
    return command


def trust_of(keys: tuple[str, ...], witnesses: tuple[str, ...], quorum: int | None) -> Trust:
    """The trusted keys. Raises InvalidSetting for malformed ones, click.UsageError."""
    for key in (*keys, *witnesses):
        if "+" not in key and Path(key).exists():
            raise click.UsageError(f"{key} is a file: give the public key itself, as printed by 'keygen'")
    if witnesses and not keys:
        raise click.UsageError("--witness needs --key: a witness cosigns what the log signed")
    return Trust.given(keys, witnesses, quorum)


def read_evidence(file: str) -> bytes:
    """The content of a file; '-' is stdin. Raises UsageError if it is unreadable, empty or too long."""
    try:
        if file == "-":
            if sys.stdin is None:
                raise UsageError("stdin is closed, but '-' was given")
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
        raise UsageError(f"{file} is empty, not a proof or a checkpoint")
    if 0 < data.count(b"\n") == data.count(b"\r\n"):  # all of them; single ones are damage, found by the parser
        raise UsageError(
            f"{file} was converted to Windows line endings (CR LF), which breaks its signatures: get it again, or "
            "convert it back with 'dos2unix'"
        )
    if len(data) > MOST:
        raise UsageError(f"{file} is longer than {MOST:,} bytes, not a proof or a checkpoint")
    return data


def _keep(context: click.Context, option: click.Parameter, value: tuple[str, int] | None) -> None:
    context.ensure_object(Shared).metrics = value


metrics_port = click.option(
    "--metrics-port", type=Address(), metavar="[HOST:]PORT", expose_value=False, callback=_keep,
    help="Serve Prometheus metrics; HOST defaults to 127.0.0.1.",
)  # fmt: skip
