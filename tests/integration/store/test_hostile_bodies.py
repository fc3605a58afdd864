"""Bodies that only another writer stores: true by their hashes, kept by the rules, and hard to read.

They stop nobody: each is an entry like any other, and what cannot be made a value of Python is still a text.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import BodyUnreadable, Ledger, QuarantineRefused
from ledger.checkpoints.keys import create_key
from ledger.export.bundle import export
from ledger.export.check import verify_bundle
from ledger.format.rules import MAX_BODY, MAX_DEPTH
from ledger.format.times import microseconds
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from tests.support.bad_entries import workers
from tests.support.cli import cli_of
from tests.support.forging import forged, insert
from tests.support.helpers import event, handed_out
from tests.support.logins import Logins
from tests.support.views import project, rows

LONGEST = MAX_BODY - 90
"""Characters of one text, with room for what stands around it."""
UNREADABLE = {
    "a number too large": "1e400",
    "an exponent too large": "-1e99999999999999999999",
    "an integer of 5000 digits": "9" * 5000,
    "digits to the end": "-" + "1" * (LONGEST - 1),
}
READABLE = {
    "a number too small": "-1e-400",
    "an integer of 30 digits": "9" * 30,
    "minus zero": "-0",
    "a key twice": '{"a":1,"a":2}',
    "a key twice, once escaped": '{"a":1,"\\u0061":{"a":1,"a":[]}}',
    "levels": "[" * (MAX_DEPTH - 1) + "{}" + "]" * (MAX_DEPTH - 1),
    "levels of objects": '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
    "wide": "[" + "{}," * (LONGEST // 3 - 1) + "{}]",
    "brackets in a string": '"' + "[{" * 100_000 + '"',
    "a pair of surrogates": r'"\ud83d\ude00"',
    "escapes of escapes": r'"\\ud83d\\u0000"',
    "blanks around": ' \t{ "a" : [ 1 , 2 ] }\t ',
    "a null": "null",
    "an empty string": '""',
    "controls": '"\x7f\x85\u2028\u202e\ufeff\uffff\U0010ffff"',
    "escaped controls": r'"\u0001\u001b[2J\r\n\u009b"',
    "one word": '"' + "x" * (LONGEST - 2) + '"',
    "many words": '"' + " ".join(f"{number:x}" for number in range(45_000))[: LONGEST - 2] + '"',
    "many keys": "{" + ",".join(f'"{number}":{number}' for number in range(18_000)) + "}",
    "a long key": '{"' + "k" * 200_000 + '":1}',
}
BODIES = UNREADABLE | READABLE
VIEWS = ("timeline", "actor_activity", "resource_history", "resource_state")


@pytest.fixture
def hostile(ledger: Ledger, login: Logins) -> Ledger:
    """Each body in one of its places, about a resource of the body's name, inserted by a writer's own hand."""
    with psycopg.connect(login("ledger_writer"), autocommit=True) as writer:
        for (name, text), field in zip(BODIES.items(), cycle(("before", "after", "metadata")), strict=False):
            [(now,)] = writer.execute("select clock_timestamp()").fetchall()
            said: dict[str, Any] = {"resource_type": "thing", "resource_id": name, "after": None}
            position, prev, _ = ledger.tail()
            said |= {field: text.encode(), "recorded": microseconds(now)}
            insert(writer, forged(position + 1, prev, **said))
    assert ledger.append(event(1)).position == len(BODIES) + 1
    return ledger


def views(admin: psycopg.Connection) -> dict[str, list[str]]:
    return {name: rows(admin, name) for name in VIEWS}


def live_is_a_replay(ledger: Ledger, admin: psycopg.Connection) -> None:
    before = views(admin)
    for projection in find_projections():
        rebuild(ledger.settings, projection)
    assert views(admin) == before


def test_everybody_goes_on(hostile: Ledger, admin: psycopg.Connection, tmp_path: Path) -> None:
    last = hostile.tail().position
    with workers(hostile) as (_, relay):
        assert relay.publish() == last and relay.stopped == []
        project(hostile)
        live_is_a_replay(hostile, admin)
        assert [entry.position for entry in hostile.follow(0, idle=1)] == list(range(1, last + 1))
        assert handed_out(hostile) == list(range(1, last + 1))
        key = create_key(tmp_path / "main.key", "example.com/main")
        signed = hostile.checkpoint(tmp_path / "main.key", new_state=True)
        assert signed.size == last
        report = hostile.verify(checkpoints=[signed.note], keys=[key.vkey], workers=2)
        assert report.findings == hostile.verify().findings == []
        export(hostile.settings, tmp_path / "bundle")
        assert verify_bundle(tmp_path / "bundle").findings == []
        for position in range(2, last):
            with pytest.raises(QuarantineRefused, match="holds"):
                hostile.quarantine(position, "user:1", "hard to read")
            assert hostile.erase(position, "user:1", "asked").position > last
        relay.publish()
        project(hostile)
        live_is_a_replay(hostile, admin)
    assert hostile.verify().findings == []


def test_it_is_shown_as_text(hostile: Ledger) -> None:
    for entry in hostile.read(limit=len(BODIES)):
        texts = (entry.before_json, entry.after_json, entry.metadata_json)
        assert [text for text in texts if text is not None] == [BODIES[entry.resource_id or ""]]
        for field in ("before", "after", "metadata"):
            if entry.resource_id in UNREADABLE and getattr(entry, f"{field}_json") is not None:
                with pytest.raises(BodyUnreadable, match=f"entry {entry.position}: {field}"):
                    getattr(entry, field)
            else:
                getattr(entry, field)
    project(hostile)
    cli = cli_of(hostile)
    commands = [("tail", "-n", "100"), ("query", "--limit", "100"), ("query", "--text", "x"), ("activity",)]
    commands += [(command, f"thing:{name}") for name in BODIES for command in ("history", "state")]
    for command in commands:
        for ran in (cli.well(*command), cli.well(*command, "--json")):
            assert not any((each < " " and each not in "\n\t") or "\x7f" <= each < "\xa0" for each in ran.out), command
            assert "\u202e" not in ran.out, command
