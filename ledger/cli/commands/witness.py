"""witness keygen and witness serve: a witness for other logs."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from contextlib import closing
from pathlib import Path

import click

from ledger.cli.app import Command
from ledger.cli.context import Shared, pass_shared
from ledger.cli.logs import log_format
from ledger.cli.output import line, write_json
from ledger.cli.params import Address
from ledger.cli.signals import wait_until, working
from ledger.errors import InvalidSetting
from ledger.files import new_private
from ledger.tlog.cosigner import Cosigner
from ledger.tlog.file_signer import FileSigner, new_cosigner, parse_cosigner
from ledger.tlog.note import Verifier
from ledger.tlog.witness_server import WitnessServer

LISTEN = "127.0.0.1:7180"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("witness", no_args_is_help=True)
def witness_command() -> None:
    """Run a witness: cosign checkpoints of other logs, and never two that contradict each other."""


@witness_command.command("keygen", cls=Command)
@click.argument("file", type=_FILE, metavar="FILE")
@click.option("--name", required=True, metavar="NAME", help="A URL of yours without https, such as witness.example/w1.")
@pass_shared
def keygen_command(shared: Shared, file: Path, name: str) -> None:
    """Create a witness's key in FILE, readable by you alone, and print its public key.

    Keep the file secret. Give the public key to the operators of the logs, and to their verifiers.
    """
    private, vkey = new_cosigner(name, secrets.token_bytes(32))
    try:
        with new_private(file) as opened:
            opened.write(f"{private}\n".encode())
    except FileExistsError:
        raise InvalidSetting(f"{file} exists already: a key is never overwritten") from None
    write_json({"file": str(file), "vkey": vkey}) if shared.json else line(vkey)


@witness_command.command("serve", cls=Command)
@click.option("--key", "key_file", type=_FILE, required=True, metavar="FILE", help="The witness's key.")
@click.option("--log", "logs", multiple=True, required=True, metavar="VKEY", help="The public key of a log to witness.")
@click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR",
    help="Folder of the newest cosigned checkpoints.",
)  # fmt: skip
@click.option(
    "--listen", type=Address(), default=LISTEN, show_default=True, metavar="[HOST:]PORT",
    help="HOST defaults to 127.0.0.1; port 0 selects a free port.",
)  # fmt: skip
@log_format
@pass_shared
def serve_command(shared: Shared, key_file: Path, logs: tuple[str, ...], state: Path, listen: tuple[str, int]) -> None:
    """Cosign checkpoints of the logs until Ctrl-C or SIGTERM. Prints URL+VKEY, for 'checkpoint --witness'.

    DIR is the witness's state: never restore an older copy of it, and never run two witnesses with one key. The server
    speaks plain HTTP: put a TLS proxy in front of it.
    """
    signer = _read_key(key_file)
    with working(once=False) as stop:
        mark = key_file.with_name(f"{key_file.name}.served")
        with closing(Cosigner(signer, [Verifier.parse(log) for log in logs], state, mark=mark)) as cosigner:
            server = WitnessServer(cosigner, *listen)
            try:
                _announce(shared, server, cosigner)
                wait_until(stop)
            finally:
                server.stop()


def _announce(shared: Shared, server: WitnessServer, cosigner: Cosigner) -> None:
    vkey = cosigner.verifier.vkey
    if shared.json:
        write_json({"url": server.url, "vkey": vkey, "witness": f"{server.url}+{vkey}"})
    else:
        line(f"{server.url}+{vkey}")
    sys.stdout.flush()
    logging.getLogger("ledger").info("Witnessing; Ctrl-C or SIGTERM stops")


def _read_key(file: Path) -> FileSigner:
    try:
        with file.open(encoding="utf-8") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o077:
                raise InvalidSetting("other users may read it: create a new key, or 'chmod 600' it")
            return parse_cosigner(opened.read(4096))
    except FileNotFoundError:
        raise InvalidSetting(f"no key {file}: create one with 'auditledger witness keygen'") from None
    except (UnicodeDecodeError, InvalidSetting) as error:
        text = str(error) if isinstance(error, InvalidSetting) else "not a witness's private key"
        raise InvalidSetting(f"{file}: {text}") from None
