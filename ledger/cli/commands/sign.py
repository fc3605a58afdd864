"""keygen, checkpoint, rotate-key."""

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
    help="Who runs the log, as a name that is yours: example.com/audit. Else LEDGER_ORIGIN, else this host's name.",
)  # fmt: skip
@pass_shared
def keygen_command(shared: Shared, file: Path | None, origin: str | None) -> None:
    """Make a key to sign a ledger's checkpoints with: into FILE, by default <home>/<ledger>.key, readable by you alone.

    Prints the public half, which those who verify need. FILE.state remembers what was signed last: keep both, and keep
    them where the database's administrators are not.
    """
    ledger = shared.given().name
    path = file or key_file(shared, ledger)
    name = f"{(origin or socket.gethostname()).rstrip('/')}/{ledger}"
    if not is_name(name):
        raise InvalidSetting(f"{origin!r} cannot be an origin: no spaces, no plus sign")
    key = create_key(path, name)
    if shared.json:
        write_json({"file": str(path), "name": key.name, "vkey": key.vkey})
    else:
        line(key.vkey)
        note(f"The private key is in {path}, its state in {path}.state; the line above is what verifiers need")


@click.command("checkpoint", cls=Command)
@signing_options
@click.option(
    "--new-state", is_flag=True,
    help="Begin a state file where there is none: checks the whole ledger, and the newest checkpoint that it keeps.",
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
    """Sign the ledger as it is now, keep the checkpoint, have it cosigned, publish it, and print it.

    What is new since the last one is checked first, and that nothing signed before was cut off or rewritten: then
    nothing is signed, and the exit code is 1.
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
        with progress("Checking what is new") as advance:
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
@click.option("--key", "old", type=FILE, metavar="FILE", help="The old key; by default <home>/<ledger>.key.")
@click.option("--new", type=FILE, required=True, metavar="FILE", help="The new key; made where there is none.")
@click.option("--actor", metavar="KEY", help="Who, as a key: user:42; by default the old key itself.")
@click.option("--actor-type", default="user", metavar="TYPE", show_default=True, help="What kind of actor.")
@pass_shared
def rotate_key_command(shared: Shared, old: Path | None, new: Path, actor: str | None, actor_type: str) -> None:
    """Record that a new signing key takes the old one's place, and print the entry's receipt.

    From then on sign with both ('checkpoint --key OLD --key NEW') until everybody who verifies has the new public key.
    """
    old = old or key_file(shared, shared.given().name)
    before = read_key(old)
    with opened(shared) as ledger:
        after = read_key(new) if new.exists() else create_key(new, before.name)
        receipt = ledger.rotate_key(old, new, actor=actor, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)
    note(f"The new public key is {after.vkey}; sign with both keys until everybody who verifies has it")


@click.command("rebuild-tree", cls=Command)
@click.option(
    "--checkpoint", "sizes", type=click.IntRange(0), multiple=True, metavar="SIZE",
    help="Remove the kept checkpoint of so many entries too; may be given more than once.",
)  # fmt: skip
@who_and_why()
@pass_shared
def rebuild_tree_command(shared: Shared, sizes: tuple[int, ...], actor: str, reason: str, actor_type: str) -> None:
    """Remove all tiles of the Merkle tree, and record who did it, why, and what stood there.

    For tiles or checkpoints that 'verify' finds wrong. The next 'checkpoint' makes the tiles again from the entries;
    what signers' state files and witnesses remember still holds.
    """
    with opened(shared) as ledger:
        receipt = ledger.rebuild_tree(actor, reason, checkpoints=sizes, actor_type=actor_type)
    print_receipt(receipt, as_json=shared.json)
    note("The tiles are removed: 'auditledger checkpoint' makes them again from the entries")
