"""What `checkpoint` and `run` share: the options that say who signs and where it is published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.shared import Shared
from ledger.drivers.pools import Servers

if TYPE_CHECKING:
    from ledger.checkpoints.signer import Checkpointer
    from ledger.tlog.witness_client import Witnesses

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
    servers: Servers,
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
    for path in keys or [key_file(shared, servers.settings.name)]:
        key = key_of(path)
        ledger = servers.settings.name if named else key.signer.name.rpartition("/")[2]
        found.setdefault(ledger, []).append(key)
    return [
        Checkpointer(
            servers,
            several,
            name=ledger,
            publish=publish,
            require=require,
            cosign=cosign_option(witnesses, quorum),
        )
        for ledger, several in found.items()
    ]
