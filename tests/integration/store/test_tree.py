"""The tree in the database against a naive tree: its tiles, the entries that growing reads, refusals."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
import pytest

from ledger import Ledger
from ledger.checkpoints import grow
from ledger.drivers.run import drive
from ledger.effects import CopyOut, Effect, Pipeline, Plan, Query, Stored
from ledger.errors import ChainBroken, ProofRefused, SigningRefused
from ledger.store import tree
from ledger.store.ledgers import BEGIN, COMMIT
from ledger.store.tree import EMPTY_HEAD, Head
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.merkle import check_consistency, check_inclusion, leaf_hash
from ledger.tlog.note import sign
from ledger.tlog.tiles import tiles_of
from tests.support.copy_messages import TRAILER
from tests.support.forger import Forger
from tests.support.helpers import erase, events
from tests.support.trees import MAIN, check_tree, cut, envelopes, rewrite, stored_tiles


def extend(connection: psycopg.Connection, *trusted: Head) -> Head:
    try:
        return drive(grow.extend(MAIN, trusted), connection)
    finally:
        connection.rollback()  # where it ended early, as the pool does it


@pytest.mark.parametrize("steps", [[0], [1], [255], [256], [257], [100, 156, 1, 0, 600], [8192 + 300]])
def test_tiles_are_those_of_a_naive_tree(ledger: Ledger, admin: psycopg.Connection, steps: list[int]) -> None:
    head = EMPTY_HEAD
    for step in steps:
        ledger.append_many(events(step))
        head = extend(admin, head)
        check_tree(ledger, admin, head)
    assert drive(tree.size(MAIN), admin) == sum(steps)


def test_around_65536(ledger: Ledger, admin: psycopg.Connection) -> None:
    """Where a tile of level 1 is full, and the first of level 2 comes."""
    ledger.append_many(events(65_535))
    head = extend(admin)
    for size in (65_535, 65_536, 65_537):
        leaves = [leaf_hash(each) for each in envelopes(ledger)]
        assert head.size == len(leaves) == size
        found = {(*place, len(hashes) // 32) for place, hashes in stored_tiles(admin).items()}
        assert found == set(tiles_of(size))
        assert head.root == drive(tree.root_at(MAIN, head.size), admin)
        path = drive(tree.inclusion_proof(MAIN, head.size - 1, head.size), admin)
        check_inclusion(head.size - 1, head.size, leaves[-1], path, head.root)
        ledger.append_many(events(1))
        grown = extend(admin, head)
        proof = drive(tree.consistency_proof(MAIN, head.size, grown.size), admin)
        check_consistency(head.size, head.root, grown.size, grown.root, proof)
        head = grown


def counted(plan: Plan[Any], connection: psycopg.Connection) -> tuple[int, int]:
    """How many rows of a plan's effects come in, and how many hashes go out."""
    rows = hashes = 0

    def counting() -> Generator[Effect, Any, Any]:
        nonlocal rows, hashes
        effect = next(plan)
        while True:
            if isinstance(effect, Stored):
                take = effect.take

                def counted_take(row: Any, take: Any = take) -> None:
                    nonlocal rows
                    rows += 1
                    take(row)

                effect = Stored(effect.sql, effect.params, counted_take)
            elif isinstance(effect, CopyOut):
                take_messages = effect.take

                def counted_messages(messages: list[bytes], take: Any = take_messages) -> None:
                    nonlocal rows
                    rows += sum(message != TRAILER for message in messages)
                    take(messages)

                effect = CopyOut(effect.sql, counted_messages)
            brought = yield effect
            if isinstance(effect, Query):
                rows += len(brought)
                if effect.sql == tree.SQL["write_tiles"]:
                    hashes += sum(map(len, effect.params[3])) // 32
            try:
                effect = plan.send(brought)
            except StopIteration as stop:
                return stop.value

    drive(counting(), connection)
    return rows, hashes


def test_an_extension_reads_and_writes_only_what_is_new(ledger: Ledger, admin: psycopg.Connection) -> None:
    """The same for 100 new entries, whether there were 300 before or 20,300; one by one, it does not add up."""
    found = []
    for before in (300, 20_000):
        ledger.append_many(events(before))
        head = extend(admin)
        ledger.append_many(events(100))
        rows, hashes = counted(grow.extend(MAIN, [head]), admin)
        assert 100 <= rows <= 100 + 10
        found.append(hashes)
    assert max(found) <= 100 + 256 + 256
    head = extend(admin)
    assert counted(grow.extend(MAIN, [head]), admin)[1] == 0


@pytest.mark.parametrize("trusting", [True, False])
def test_stopped_after_any_effect_the_tree_is_as_it_was(
    ledger: Ledger, admin: psycopg.Connection, trusting: bool
) -> None:
    ledger.append_many(events(300))
    head = extend(admin)
    before = stored_tiles(admin)
    ledger.append_many(events(300))
    steps = 0
    while True:

        def stopping(most: int) -> Generator[Effect, Any, bool]:
            plan = grow.extend(MAIN, [head] if trusting else [])
            effect = next(plan)
            for _ in range(most):
                brought = yield effect
                try:
                    effect = plan.send(brought)
                except StopIteration:
                    return True
            return False

        done = drive(stopping(steps), admin)
        admin.rollback()
        if done:
            break
        assert stored_tiles(admin) == before
        steps += 1
    assert steps > 5
    check_tree(ledger, admin, extend(admin, head))


def test_an_erased_body_does_not_change_the_tree(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append_many(events(10))
    head = extend(admin)
    erase(admin, 3)
    head = extend(admin, head)
    ledger.append_many(events(5))
    erase(admin, 13)  # and one that no checkpoint has seen whole
    check_tree(ledger, admin, extend(admin, head))
    check_tree(ledger, admin, extend(admin))


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def grown(ledger: Ledger, admin: psycopg.Connection) -> Head:
    """A ledger of 700 entries; the head at 600, which was signed."""
    ledger.append_many(events(600))
    head = extend(admin)
    ledger.append_many(events(100))
    return head


def refused(connection: psycopg.Connection, *trusted: Head) -> str:
    before = stored_tiles(connection)
    with pytest.raises(SigningRefused) as caught:
        extend(connection, *trusted)
    assert stored_tiles(connection) == before
    assert str(caught.value).startswith(f"{caught.value.kind}: ")
    return caught.value.kind


def test_a_cut_ledger(grown: Head, forger: Forger, admin: psycopg.Connection) -> None:
    cut(forger, 599)
    assert refused(admin, grown) == "truncated"
    assert refused(admin) == "truncated"  # the tiles alone know it
    forger.run("delete from ledger.tiles")
    assert refused(admin, grown) == "truncated"


def test_a_ledger_cut_and_filled_again(grown: Head, forger: Forger, admin: psycopg.Connection, ledger: Ledger) -> None:
    cut(forger, 500)
    forger.done()
    with Ledger(ledger.settings) as other:
        other.append_many(events(300))
    assert refused(admin, grown) == "rewritten"
    assert refused(admin) == "tree_mismatch"


def test_rewritten_entries(grown: Head, forger: Forger, admin: psycopg.Connection) -> None:
    rewrite(forger, 550, 700)
    assert refused(admin, grown) == "rewritten"
    forger.run("delete from ledger.tiles")  # and the tree made anew
    extend(admin)
    assert refused(admin, grown) == "rewritten"


def test_rewritten_entries_whose_signed_hash_was_put_back(
    grown: Head, forger: Forger, admin: psycopg.Connection
) -> None:
    rewrite(forger, 550, 700)
    forger.run("delete from ledger.tiles")
    extend(admin)
    forger.connection.execute("update ledger.audit_logs set hash = %s where position = 600", (grown.hash,))
    assert refused(admin, grown) == "tree_mismatch"
    with pytest.raises(ChainBroken, match="entry 600: hash_mismatch"):
        extend(admin)


def test_what_is_new_is_checked(grown: Head, forger: Forger, admin: psycopg.Connection) -> None:
    forger.run("update ledger.audit_logs set actor = 'user:43' where position in (650, 660)")
    with pytest.raises(ChainBroken, match="entry 650: hash_mismatch"):
        extend(admin, grown)
    forger.run("update ledger.audit_logs set actor = 'user:42' where position in (650, 660)")
    extend(admin, grown)
    for statement, found in (
        ("update ledger.audit_logs set after = '{}' where position = 651", "entry 651: body_mismatch"),
        (
            "update ledger.audit_logs set before = null, after = null, metadata = null, salt = null"
            " where position = 652",
            "entry 652: body_missing",
        ),
        ("delete from ledger.audit_logs where position = 653", "entry 653: missing_entry"),
        ("delete from ledger.audit_logs where position = 700", "entry 700: there is no such entry"),
        ("update ledger.tails set hash = decode(repeat('ab', 32), 'hex')", "entry 700: .* the tail"),
        ("update ledger.audit_logs set prev_hash = hash where position = 601", "entry 601: broken_link"),
    ):
        with admin.transaction(force_rollback=True):
            admin.execute(statement)
            with pytest.raises(ChainBroken, match=found):
                drive(_within(grow.extend(MAIN, [grown])), admin)
        assert extend(admin, grown).size == 700


def _within(plan: Plan[Head]) -> Plan[Head]:
    """In a transaction that is open already."""
    effect = next(plan)
    while True:
        own = isinstance(effect, Query) and effect == COMMIT
        own = own or (isinstance(effect, Pipeline) and effect.queries[0] == BEGIN)
        try:
            effect = plan.send(None if own else (yield effect))
        except StopIteration as stop:
            head: Head = stop.value
            return head


TILES = {
    "a hash of the edge": "update ledger.tiles set hashes = set_byte(hashes, 7, 1) where level = 0 and index = 2",
    "a hash of the level above": "update ledger.tiles set hashes = set_byte(hashes, 7, 1) where level = 1",
    "the edge missing": "delete from ledger.tiles where level = 0 and index = 2",
    "the level above missing": "delete from ledger.tiles where level = 1",
    "the edge cut": "update ledger.tiles set hashes = substr(hashes, 1, 32) where level = 0 and index = 2",
    "all missing": "delete from ledger.tiles",
}


@pytest.mark.parametrize("case", TILES)
def test_changed_tiles(grown: Head, forger: Forger, admin: psycopg.Connection, ledger: Ledger, case: str) -> None:
    admin.execute("update ledger.tails set fence = 0")
    forger.run(TILES[case].replace("set_byte(hashes, 7, 1)", "set_byte(hashes, 7, get_byte(hashes, 7) # 1)"))
    if case in ("all missing", "the edge missing", "the edge cut"):  # made anew from the entries, and compared
        head = extend(admin, grown)
        check_tree(ledger, admin, head)
    else:
        assert refused(admin, grown) == "tree_mismatch"


def test_a_changed_tile_is_found_by_the_tree_made_anew(grown: Head, forger: Forger, admin: psycopg.Connection) -> None:
    """Below the edge only a reading of all entries finds it; the database refuses to replace it."""
    forger.run(
        "update ledger.tiles set hashes = set_byte(hashes, 7, get_byte(hashes, 7) # 1) where level = 0 and index = 0"
    )
    forger.done()
    extend(admin, grown)
    assert refused(admin) == "tree_mismatch"


def test_two_heads_of_one_size(grown: Head, admin: psycopg.Connection) -> None:
    assert refused(admin, grown, grown._replace(root=bytes(32), hash=None)) == "forked"
    assert refused(admin, grown, Head(400, bytes(32), None)) == "tree_mismatch"
    assert refused(admin, grown, Head(650, bytes(32), None)) == "rewritten"


def test_two_extensions_at_once_wait_for_each_other(grown: Head, admin: psycopg.Connection, ledger: Ledger) -> None:
    with psycopg.connect(ledger.settings.database_url or "") as other:
        other.execute(tree.SQL["lock"], (1,))
        admin.execute("set lock_timeout = '50ms'")
        with pytest.raises(Exception, match="lock timeout"):
            extend(admin, grown)
    assert extend(admin, grown).size == 700


# ----------------------------------------------------------------------------------------------- what the database does


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger.tiles set hashes = hashes || decode(repeat('ab', 32), 'hex') where level = 0 and index = 0",
        "update ledger.tiles set hashes = substr(hashes, 1, 32) where level = 0 and index = 2",
        "update ledger.tiles set hashes = hashes where level = 0 and index = 0",
        "update ledger.tiles set hashes = set_byte(hashes, 7, 255 - get_byte(hashes, 7))"
        " || decode(repeat('ab', 32), 'hex') where index = 2",
        "update ledger.tiles set index = 7 where index = 2",
        "update ledger.tiles set level = 3 where index = 2",
        "delete from ledger.tiles where index = 2",
        "truncate ledger.tiles",
        "insert into ledger.tiles values (1, 0, 9, '')",
        "insert into ledger.tiles values (1, 0, 9, decode(repeat('ab', 33), 'hex'))",
        "insert into ledger.tiles values (1, 0, 9, decode(repeat('ab', 257 * 32), 'hex'))",
        "insert into ledger.tiles values (1, 8, 0, decode(repeat('ab', 32), 'hex'))",
        "insert into ledger.tiles values (1, 0, -1, decode(repeat('ab', 32), 'hex'))",
        "update ledger.checkpoints set note = replace(note, 'log', 'lag')",
        "update ledger.checkpoints set note = left(note, -1)",
        "update ledger.checkpoints set size = 599",
        "update ledger.checkpoints set root = decode(repeat('ab', 32), 'hex')",
        "update ledger.checkpoints set signed_at = now()",
        "delete from ledger.checkpoints",
        "truncate ledger.checkpoints",
        "insert into ledger.checkpoints values (1, 9, decode(repeat('ab', 32), 'hex'), E'log/main\\n8\\n')",
    ],
)
def test_the_database_refuses(grown: Head, admin: psycopg.Connection, statement: str) -> None:
    keep(admin, grown)
    for setting in ("origin", "replica"):
        admin.execute(f"set session_replication_role = {setting}")
        with pytest.raises(psycopg.Error) as caught:
            admin.execute(statement)
        assert caught.value.sqlstate in ("LE004", "23514")


def keep(connection: psycopg.Connection, head: Head, seed: bytes = b"key") -> bytes:
    signer = FileSigner("log/main", seed.ljust(32))
    note = sign(Checkpoint("log/main", head.size, head.root).text, [signer])
    return drive(tree.keep(MAIN, head, note), connection)


def test_kept_checkpoints_gain_signatures(grown: Head, admin: psycopg.Connection) -> None:
    first = keep(admin, grown)
    assert keep(admin, grown) == first
    both = keep(admin, grown, b"another")
    assert both.startswith(first)
    assert both.count("\u2014 log/main".encode()) == 2
    kept = drive(tree.kept_at(MAIN, 600), admin)
    assert kept is not None
    assert kept[:3] == (600, grown.root, both)
    assert drive(tree.newest_kept(MAIN), admin) == kept
    assert drive(tree.newest_kept(MAIN, 599), admin) is None
    assert drive(tree.all_kept(MAIN), admin) == [kept]
    assert drive(tree.all_kept(MAIN, 600), admin) == []
    with pytest.raises(SigningRefused, match="forked: "):
        keep(admin, grown._replace(root=bytes(32)))


def test_proofs_beyond_the_tiles_are_refused(grown: Head, admin: psycopg.Connection) -> None:
    for plan in (tree.root_at(MAIN, 700), tree.inclusion_proof(MAIN, 3, 700), tree.consistency_proof(MAIN, 600, 700)):
        with pytest.raises(ProofRefused):
            drive(plan, admin)


@pytest.fixture
def forger(ledger: Ledger) -> Any:
    with Forger(ledger.settings.database_url or "") as forger:
        yield forger
