"""Who erases, holds and releases; who rebuilds views; who signs checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ledger import Ledger, Receipt
from ledger.checkpoints.signer import Checkpointer
from ledger.drivers.pools import Connector
from ledger.errors import ChainBroken, HoldRefused, InvalidSetting, ProjectionFailed, UnderLegalHold
from ledger.format.actions import OWN_ACTIONS
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from tests.simulation.hostile import VICTIM
from tests.simulation.life import Life
from tests.simulation.notes import Notes
from tests.simulation.voices import COUNTER

WHO, WHY = "officer:1", "asked for"


def tend(life: Life) -> None:
    with Ledger(life.settings) as ledger:
        life.together(partial(_erase, life, ledger), partial(_rebuild, life))


def _erase(life: Life, ledger: Ledger) -> None:
    notes = Notes(life.folder / "erased" / life.name)
    held = [line["holding"] for line in notes.lines()[-1:] if "holding" in line]
    if held:
        _release(life, ledger, notes, held[0])
    while not life.stop.wait(life.chance.uniform(0.05, 0.3)):
        tail = life.settle(ledger.tail).position
        if not tail:
            continue
        position = life.chance.randint(1, tail)
        [entry] = life.settle(lambda position=position: list(ledger.read(position - 1, 1)))  # type: ignore[misc]
        if entry.action.startswith(OWN_ACTIONS) or entry.resource_type == COUNTER[0]:
            continue
        if life.chance.random() < 0.2:
            _hold_for_a_while(life, ledger, notes, position, entry.erased)
        elif receipt := _erase_one(life, ledger, position):
            _note(notes, receipt, erased=position)


def _erase_one(life: Life, ledger: Ledger, position: int) -> Receipt | None:
    """None where a hold stands against it."""
    try:
        return life.settle(lambda: ledger.erase(position, WHO, WHY))
    except UnderLegalHold:
        return None


def _hold_for_a_while(life: Life, ledger: Ledger, notes: Notes, position: int, erased: bool) -> None:
    notes.add(holding=position)
    placed = life.settle(lambda: ledger.hold(position, WHO, f"case {position}"))
    life.stop.wait(life.chance.uniform(0, 0.3))
    receipt = _erase_one(life, ledger, position)
    assert erased or receipt is None, f"entry {position} was erased under the hold of entry {placed.position}"
    _note(notes, placed, holding=position)
    _release(life, ledger, notes, position)


def _release(life: Life, ledger: Ledger, notes: Notes, position: int) -> None:
    try:
        _note(notes, life.settle(lambda: ledger.release(position, WHO, f"case {position} closed")), released=position)
    except HoldRefused:
        notes.add(released=position)  # we died before it was placed


def _note(notes: Notes, receipt: Receipt, **fields: int) -> None:
    notes.add(position=receipt.position, hash=receipt.hash.hex(), **fields)


def _rebuild(life: Life) -> None:
    projections = find_projections()
    while not life.stop.wait(life.chance.uniform(1, 4)):
        try:
            life.settle(partial(rebuild, life.settings, life.chance.choice(projections)))
        except InvalidSetting as error:
            if "another rebuild" not in str(error):
                raise
            life.saw(error)  # of ours, whose connection Postgres does not know to be dead
        except ChainBroken as error:
            if error.ledger != VICTIM:
                raise
            life.saw(error)  # an entry of a hostile writer, until it is quarantined
        except ProjectionFailed as error:
            if error.from_entry:
                raise
            life.saw(error)  # of the server: a full disk, a deadlock


def sign(life: Life, key: Path, folder: Path) -> None:
    """Signs again and again; notes each checkpoint once it is out."""
    notes = Notes(life.folder / "signed" / folder.name)
    servers = Connector(life.settings)
    signer = Checkpointer(servers, [key], publish=[folder, "redis"], require=1)
    while not life.stop.wait(life.chance.uniform(0.1, 1)):
        made = life.settle(signer.checkpoint)
        notes.add(size=made.size, root=made.root.hex(), note=made.note.decode(), origin=made.origin)
    servers.close()
