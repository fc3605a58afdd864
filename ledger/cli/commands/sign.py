"""keygen, checkpoint, rotate-key and rebuild-tree."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from ledger.checkpoints.keys import create_key, read_key
from ledger.checkpoints.publishers import REDIS
from ledger.checkpoints.signer import Checkpointer
from ledger.cli.app import Command
from ledger.cli.commands.erase import who_and_why
from ledger.cli.connect import opened, settings_of
from ledger.cli.context import Shared, pass_shared
from ledger.cli.options import FILE, cosign_option, key_file, signing_options
from ledger.cli.output import counted, line, print_receipt, progress, write_json, write_note
from ledger.cli.text import note
from ledger.drivers.pools import Connector
from ledger.errors import InvalidSetting
from ledger.tlog.note import is_name


@click.command("keygen", cls=Command)
@click.argument("file", type=FILE, required=False)
@click.option(
    "--origin", envvar="LEDGER_ORIGIN", metavar="ORIGIN",
    help="Name of the log, under a domain of yours: example.com/audit. Default LEDGER_ORIGIN, then this host's name.",
)  # fmt: skip
@pass_shared
def keygen_command(shared: Shared, file: Path | None, origin: str | None) -> None:
    """Create a key that signs a ledger's checkpoints, in FILE (default <home>/<ledger>.key), readable by you alone.

    Prints the public key, which verifiers need. FILE.state holds what was signed last. Back up both, and keep them out
    of reach of the database's administrators.
    """
    ledger = shared.given().name
    path = file or key_file(shared, ledger)
    name = f"{(origin or socket.gethostname()).rstrip('/')}/{ledger}"
    if not is_name(name):
        raise InvalidSetting(f"{origin!r} is not a valid origin: no spaces, no plus sign")
    key = create_key(path, name)
    if shared.json:
        write_json({"file": str(path), "name": key.name, "vkey": key.vkey})
    else:
        line(key.vkey)
        note(f"The private key is in {path}, its state in {path}.state; verifiers need the public key above")


@click.command("checkpoint", cls=Command)
@signing_options
@click.option(
    "--new-state", is_flag=True,
    help="Create a missing state file, after checking the whole ledger and its newest kept checkpoint.",
)  # fmt: skip
@pass_shared
def checkpoint_command(
    shared: Shared,
    keys: tuple[Path, ...],
    publish: tuple[str, ...],
    require: int | None,
    witnesses: tuple[str, ...],
    quorum: int | None,
    new_state: bool,
) -> None:
    """Sign a checkpoint of the ledger, keep it, have it cosigned, publish it and print it.

    First checks the entries since the last checkpoint, and that no signed entry was cut off or rewritten. If that
    fails, nothing is signed and the exit code is 1.
    """
    cosign = cosign_option(witnesses, quorum)
    settings = settings_of(shared, redis=REDIS in publish)
    connector = Connector(settings)
    try:
        checkpointer = Checkpointer(
            connector,
            keys or [key_file(shared, settings.name)],
            publish=publish,
            require=require,
            cosign=cosign,
            new_state=new_state,
        )
        with progress("Checking new entries") as advance:
            made = checkpointer.checkpoint(advance)
    finally:
        connector.close()
    if shared.json:
        write_json({
            "ledger": made.ledger, "origin": made.origin, "size": made.size, "root": made.root.hex(),
            "note": made.note.decode(), "published": made.published,
            "failed": [{"publisher": publisher, "problem": problem} for publisher, problem in made.failed],
            "unwitnessed": [{"witness": witness, "problem": problem} for witness, problem in made.unwitnessed],
        })  # fmt: skip
    else:
        write_note(made.note)
        where = f"; published to {', '.join(made.published)}" if made.published else ""
        note(f"Signed the checkpoint of {counted(made.size, 'entry')} of ledger {made.ledger}{where}")
    for witness, problem in made.unwitnessed:
        note(f"Not cosigned by {witness}: {problem}")
    for publisher, problem in made.failed:
        note(f"Not published to {publisher}: {problem}")


@click.command("rotate-key", cls=Command)
@click.option("--key", "old", type=FILE, metavar="FILE", help="The old key; default <home>/<ledger>.key.")
@click.option("--new", type=FILE, required=True, metavar="FILE", help="The new key; created if it does not exist.")
@click.option("--actor", metavar="KEY", help="Who, as a key: user:42; default the old key.")
@click.option("--actor-type", default="user", metavar="TYPE", show_default=True, help="What kind of actor.")
@pass_shared
def rotate_key_command(shared: Shared, old: Path | None, new: Path, actor: str | None, actor_type: str) -> None:
    """Record that a new signing key replaces the old one, and print the entry's receipt.

    Sign with both keys ('checkpoint --key OLD --key NEW') until all verifiers have the new public key.
    """
    old = old or key_file(shared, shared.given().name)
    before = read_key(old)
    with opened(shared) as ledger:
        after = read_key(new) if new.exists() else create_key(new, before.name)
        receipt = ledger.rotate_key(old, new, actor=actor, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)
    note(f"The new public key is {after.vkey}; sign with both keys until all verifiers have it")


@click.command("rebuild-tree", cls=Command)
@click.option(
    "--checkpoint", "sizes", type=click.IntRange(0), multiple=True, metavar="SIZE",
    help="Also remove the kept checkpoint of this size. Repeatable.",
)  # fmt: skip
@who_and_why()
@pass_shared
def rebuild_tree_command(shared: Shared, sizes: tuple[int, ...], actor: str, reason: str, actor_type: str) -> None:
    """Remove all tiles of the Merkle tree, and record who did it, why, and the removed state.

    For tiles or checkpoints that 'verify' reports. The next 'checkpoint' makes the tiles again from the entries. The
    state of signers and witnesses stays valid.
    """
    with opened(shared) as ledger:
        receipt = ledger.rebuild_tree(actor, reason, checkpoints=sizes, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)
    note("The tiles are removed; 'auditledger checkpoint' makes them again from the entries")
