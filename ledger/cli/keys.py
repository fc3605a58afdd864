"""Options that say whose signatures count, and files that hold evidence. Shared by check and verify."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ledger.errors import UsageError
from ledger.verify.checkpoints import Trust

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
