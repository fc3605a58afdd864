"""The worst values that a role may write do not stop other users."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from ledger_projections import ActorActivity, Timeline

from ledger import Ledger
from ledger.checkpoints import grow
from ledger.checkpoints.keys import create_key, read_key
from ledger.drivers.pools import Connector
from ledger.drivers.run import drive
from ledger.errors import UsageError
from ledger.store.ledgers import create_ledger
from ledger.stream.relay import Relay
from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.file_signer import FileSigner
from ledger.tlog.merkle import leaf_hash
from ledger.tlog.note import Verifier, parse_note, sign, verified_by
from tests.support.cli import cli_of
from tests.support.failing_projection import working
from tests.support.helpers import event, events, eventually, handed_out
from tests.support.logins import Logins
from tests.support.views import projector

ORIGIN = "log.example/main"
HUGE, TINY = 2**63 - 1, -(2**63)
NAMES = ["''", "repeat('x', 300)", "E'a\\nb'", "E'\\x1b[2J'", "'Robert''); drop table'", "repeat('x', 100000)"]
POSITIONS = ["-1", "9223372036854775807", "-9223372036854775808", "1000", "null", "0"]
TIMES = ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "now() + interval '100 years'"]
BYTES = ["''", "repeat('x', 100000)::bytea", "decode(repeat('11', 32), 'hex')"]
INTS = ["-1", "0", "2147483647", "-2147483648"]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "main.key", ORIGIN)
    return tmp_path / "main.key"


@pytest.fixture
def full(ledger: Ledger, key: Path, admin: psycopg.Connection) -> Iterator[Ledger]:
    """Of everything something: entries, views, a group, a checkpoint; and a second ledger."""
    drive(create_ledger("second"), admin)
    ledger.append_many(events(300))
    works(ledger, key)
    yield ledger


def works(ledger: Ledger, key: Path, tmp_path: Path | None = None) -> None:
    """Everything that others do, one after another, by workers that were just started."""
    cli = cli_of(ledger)
    receipt = ledger.append(event(1))
    ledger.append_many(events(3, 10))
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        ledger.append(event(2), connection=connection)
    servers = Connector(ledger.settings)
    try:
        relay = Relay(servers)
        relay.trim()
        relay.publish()
    finally:
        servers.close()
    with projector(ledger, [Timeline(), ActorActivity()]) as running:
        running.catch_up()
        assert running.failed == []
    assert handed_out(ledger)[-1:] == [ledger.tail().position]
    signed = ledger.checkpoint(key, new_state=True)
    assert signed.size == ledger.tail().position
    verifiers = [Verifier.parse(read_key(key).vkey)]
    assert verified_by(parse_note(ledger.prove(receipt.position).note), verifiers)
    assert ledger.verify(checkpoints=[signed.note], keys=[verifiers[0].vkey]).findings == []
    ledger.erase(receipt.position, "user:dpo", "asked for")
    cli.well("status")
    assert cli("doctor").code in (0, 1)
    if tmp_path is not None:
        cli.well("export", str(tmp_path / f"bundle{receipt.position}"))


def tried(connection: psycopg.Connection, statement: str, *params: object) -> str:
    """Runs it; the SQLSTATE of its refusal, empty where there was none."""
    try:
        connection.execute(statement, params)
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


def test_a_writers_fence(full: Ledger, key: Path, login: Logins, tmp_path: Path) -> None:
    with psycopg.connect(login("ledger_writer"), autocommit=True) as writer:
        for value in (HUGE, TINY, -1):
            assert tried(writer, "update ledger.tails set fence = %s", value) == ""
            works(full, key, tmp_path)
        assert tried(writer, "update ledger.tails set fence = null") == "23502"
        assert tried(writer, "update ledger.tails set epoch = 7") == "42501"


def test_an_admins_epoch(full: Ledger, key: Path, login: Logins, tmp_path: Path) -> None:
    """One more at a time, and nothing else."""
    with psycopg.connect(login("ledger_admin"), autocommit=True) as admin:
        for value in INTS:
            assert tried(admin, f"update ledger.tails set epoch = {value}") == "42501"
        assert tried(admin, f"update ledger.tails set fence = {HUGE}") == ""
        assert admin.execute("select ledger.open_epoch(1), ledger.open_epoch(99)").fetchall() == [(2, None)]
    works(full, key, tmp_path)


CHECKPOINT = "insert into ledger.projections (ledger_id, name, version, position, hash, recorded_at) values "
WORST = [
    *(f"update ledger.projections set position = {value}" for value in POSITIONS),
    *(f"update ledger.projections set hash = {value}" for value in BYTES),
    *(f"update ledger.projections set {each} = {value}" for value in TIMES for each in ("recorded_at", "updated_at")),
    *(f"update ledger.projections set epoch = {value}" for value in INTS),
    *(f"update ledger.projections set ledger_id = {value}" for value in INTS),
    *(f"update ledger.projections set (failed_position, failed_error, failing_since, failed_tries) ="
      f" ({position}, repeat('x', 500), {time}, {tries})"
      for position, time, tries in zip(POSITIONS, itertools.cycle(TIMES), itertools.cycle(INTS), strict=False)),
    "update ledger.projections set (failed_position, failed_error, failing_since, failed_tries) ="
    " (1, repeat('x', 500), 'infinity', 2147483647)",
    "update ledger.projections set failed_error = repeat('x', 100000)",
    *(f"insert into ledger.projections (ledger_id, name, version) values (1, {name}, 1)" for name in NAMES),
    *(f"insert into ledger.projections (ledger_id, name, version) values (99, {name}, 1)" for name in NAMES),
    *(f"{CHECKPOINT}(1, 'junk{number}', 1, {position}, {BYTES[-1]}, {time})"
      for number, (position, time) in enumerate(itertools.product(POSITIONS, TIMES))),
    "insert into ledger.projections select ledger_id, name, true, version, epoch, position, hash, recorded_at"
    " from ledger.projections on conflict do nothing",
    *(f"update ledger.subscriptions set position = {value}" for value in POSITIONS),
    *(f"update ledger.subscriptions set updated_at = {value}" for value in TIMES),
    *(f"update ledger.subscriptions set ledger_id = {value}" for value in INTS),
    *(f"insert into ledger.subscriptions (ledger_id, name, position) values (1, {name}, {position})"
      for name, position in itertools.product(NAMES, POSITIONS)),
    *(f"insert into ledger.verifications values (1, {time}, {first}, {last}, {head}, {findings})"
      for (time, first, last, head), findings in zip(
          itertools.product(TIMES, POSITIONS[:3], POSITIONS[:3], BYTES), itertools.cycle(INTS), strict=False)),
    "delete from ledger.subscriptions",
    "insert into ledger.tiles values (1, 0, 99, decode(repeat('11', 32), 'hex'))",
    "insert into ledger.checkpoints values (1, 5, decode(repeat('11', 32), 'hex'), 'junk')",
    "update ledger.tiles set hashes = hashes || decode(repeat('11', 32), 'hex')",
    "update ledger.checkpoints set note = note || 'junk'",
    *(f"select ledger.write_tiles(1, array[{level}]::smallint[], array[{index}]::bigint[], array[{hashes}]::bytea[])"
      for level, index, hashes in itertools.product(
          ("-1", "0", "1", "7", "8", "null"), ("-1", "0", "1", "2", "9223372036854775807", "null"),
          (*BYTES, "decode(repeat('11', 8192), 'hex')", "null::bytea"))),
    "select ledger.write_tiles(99, array[0]::smallint[], array[0]::bigint[], array[decode(repeat('11', 32), 'hex')])",
]  # fmt: skip
"""What a projector may write, and the worst of it."""


def test_a_projectors_rows(full: Ledger, key: Path, login: Logins, tmp_path: Path) -> None:
    with psycopg.connect(login("ledger_projector"), autocommit=True) as junk:
        went_through = [statement for statement in WORST if tried(junk, statement) == ""]
        assert not [each for each in went_through if "tiles" in each or "checkpoints" in each]
        # What it may do to its own views is theirs to mend.
        for projection in (Timeline(), ActorActivity()):
            cli_of(full).well("replay", projection.name)
        works(full, key, tmp_path)
        assert tried(junk, "delete from ledger.projections") == ""
        with projector(full, [Timeline(), ActorActivity()]) as running, pytest.raises(Exception, match="replay"):
            running.catch_up()
        for projection in (Timeline(), ActorActivity()):
            cli_of(full).well("replay", projection.name)
    works(full, key, tmp_path)


@pytest.mark.parametrize("role", ["ledger_reader", "ledger_writer", "ledger_eraser", "ledger_admin"])
def test_the_others_write_none_of_it(full: Ledger, key: Path, login: Logins, role: str) -> None:
    with psycopg.connect(login(role), autocommit=True) as junk:
        assert {tried(junk, statement) for statement in WORST} <= {"42501", "428C9", "42703"}
    works(full, key)


def triggers(admin: psycopg.Connection, *tables: str) -> list[tuple[str, str]]:
    """Table and name of each trigger that runs always."""
    found = admin.execute(
        "select relname, tgname from pg_trigger join pg_class on pg_class.oid = tgrelid"
        " where relnamespace = 'ledger'::regnamespace and relname = any(%s) and tgenabled = 'A' and not tgisinternal",
        (list(tables),),
    ).fetchall()
    assert {table for table, _ in found} == set(tables)
    return found


def test_what_superusers_left_there_before_is_each_rows_own_problem(
    full: Ledger, key: Path, admin: psycopg.Connection, tmp_path: Path
) -> None:
    """Rows from before these checks, or written past them."""
    checks = triggers(admin, "projections", "subscriptions", "verifications")

    def switch(how: str) -> None:
        for table, name in checks:
            admin.execute(f"alter table ledger.{table} {how} trigger {name}")

    switch("disable")
    for number, position in enumerate((HUGE, TINY, -1)):
        admin.execute(
            "insert into ledger.projections (ledger_id, name, version, position, recorded_at, failed_position,"
            " failed_error, failing_since, failed_tries) values"
            " (1, %s, 1, %s, 'infinity', 1, 'x', 'infinity', 2147483647)", (f"junk{number}", position)
        )  # fmt: skip
        admin.execute("insert into ledger.subscriptions values (1, %s, %s, 'infinity')", (f"junk{number}", position))
    admin.execute("insert into ledger.verifications values (1, 'infinity', 1, 2, '', 7), (1, '-infinity', 1, 2, '', 7)")
    switch("enable always")
    works(full, key, tmp_path)
    switch("disable")
    admin.execute(f"update ledger.projections set position = {HUGE} where name = 'timeline' and ledger_id = 1")
    switch("enable always")
    with projector(full, [Timeline(), ActorActivity()]) as running:
        full.append(event(3))
        with pytest.raises(Exception, match=r"timeline|rolled back"):
            running.catch_up()
        [(name,)] = admin.execute(
            "select name from ledger.projections where ledger_id = 1 and position = %s", (full.tail().position,)
        )
        assert name == "actor_activity", "the other went on"
    cli = cli_of(full)
    assert "AHEAD" in cli.well("status").out
    cli.well("replay", "timeline")
    works(full, key, tmp_path)


# ------------------------------------------------------------------------------------------------ tiles and checkpoints


def test_tiles_that_the_entries_make_are_kept(ledger: Ledger, key: Path, login: Logins) -> None:
    """A projector may extend the tree, in order, with what is so, and with nothing else."""
    ledger.append_many(events(300))
    leaves = b"".join(leaf_hash(bytes(text, "utf8")) for text in envelopes(ledger))
    with psycopg.connect(login("ledger_projector"), autocommit=True) as projecting:

        def write(level: int, index: int, hashes: bytes) -> str:
            params = ([level], [index], [hashes])
            return tried(projecting, "select ledger.write_tiles(1, %s::smallint[], %s::bigint[], %s)", *params)

        assert write(0, 1, leaves[8192:]) == "LE020", "before the first is full"
        assert write(0, 0, leaves[:64]) == ""
        assert write(0, 0, leaves[32:96]) == "LE020"
        assert write(0, 0, leaves[:64] + leaves[:32]) == "LE020"
        assert write(0, 0, leaves[:32]) == "", "it is there"
        assert write(1, 0, bytes(32)) == "LE020"
        assert write(0, 0, leaves[:8192]) == write(0, 1, leaves[8192:]) == ""
        assert write(0, 1, leaves[8192:] + bytes(32)) == "LE020", "beyond the tail"
    assert ledger.checkpoint(key).size == 300 and ledger.verify().findings == []


def envelopes(ledger: Ledger) -> list[str]:
    with psycopg.connect(ledger.settings.database_url or "") as connection:
        return [row[0] for row in connection.execute("select envelope from ledger.envelopes order by position")]


BITES = """
create function ledger_views.bite() returns trigger language plpgsql as
    $$ begin raise exception 'no' using errcode = '{}'; end $$;
create constraint trigger bite after insert on ledger_views.timeline
    deferrable initially deferred for each row execute function ledger_views.bite()
"""


@pytest.mark.parametrize("sqlstate", ["P0001", "LE001", "ZZ999", "40P01", "57014", "57P01", "XX001"])
def test_a_projectors_trigger(full: Ledger, login: Logins, sqlstate: str) -> None:
    """It raises at the commit, whatever it likes: no worker ends, and other views go on if it is no server's error."""
    url = login("ledger_projector")
    with (
        psycopg.connect(url, autocommit=True) as owner,
        Ledger(replace(full.settings, database_url=url)) as projecting,
        working(projecting, Timeline(), ActorActivity()) as running,
    ):
        owner.execute("set role ledger_projector")
        owner.execute(BITES.format(sqlstate).encode())
        receipt = full.append(event(1))
        if sqlstate in ("P0001", "LE001", "ZZ999"):
            full.wait_for(receipt, "actor_activity", timeout=20)
            eventually(lambda: [failed.name for failed in running.failed] == ["timeline"])
        else:
            time.sleep(2)
        owner.execute("drop function ledger_views.bite cascade")
        full.wait_for(full.append(event(2)), "timeline", timeout=30)


WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


def test_locks_taken_in_another_order(full: Ledger, login: Logins, admin: psycopg.Connection) -> None:
    """Postgres ends a deadlock with an error for the one who waited first: the worker, who tries again."""
    with (
        psycopg.connect(login("ledger_projector")) as other,
        working(full, Timeline(), ActorActivity()),
    ):
        lock = "select from ledger.projections where ledger_id = 1 and name = %s for update"
        other.execute(lock, ["timeline"])
        receipt = full.append(event(1))
        eventually(lambda: admin.execute(WAITING).fetchall() == [(1,)])
        other.execute(lock, ["actor_activity"])
        other.rollback()
        full.wait_for(receipt, "timeline", timeout=20)


def test_envelopes_of_every_kind_of_text(ledger: Ledger, key: Path, login: Logins) -> None:
    """What SQL hashes is what Python does."""
    texts = [chr(number) for number in (*range(1, 0x180), 0x2028, 0xFEFF, 0xFFFD, 0x1F600) if chr(number) not in "\n\r"]
    ledger.append_many(
        event(number, actor=f"a{text}b", resource_type="r", resource_id=text) for number, text in enumerate(texts)
    )
    with Ledger.open(database_url=login("ledger_projector")) as signing:
        assert signing.checkpoint(key).size == len(texts)
    assert ledger.verify().findings == []


def test_junk_checkpoints_do_not_stop_the_signer(full: Ledger, key: Path, login: Logins, tmp_path: Path) -> None:
    """Of the very size that is signed next: false ones are refused; what is right, signed by nobody, stands beside."""
    full.append_many(events(10))
    with psycopg.connect(login("ledger_projector"), autocommit=True) as junk:
        with Ledger.open(database_url=login("ledger_projector")) as extending:
            head = extending.run(grow.extend(extending.ref))
        stranger = FileSigner("evil.example/main", bytes(32))

        def kept(origin: str, root: bytes = head.root, size: int = head.size, signatures: str | None = None) -> str:
            note = sign(Checkpoint(origin, size, root).text, [stranger]).decode()
            if signatures is not None:
                note = note.partition("\n\n")[0] + "\n\n" + signatures
            return tried(junk, "select ledger.keep_checkpoint(1, %s, %s, %s)", size, root, note)

        line = sign(b"x\n", [stranger]).decode().split("\n")[2]
        assert kept("evil.example/main") == "", "true, though signed by nobody whom anybody knows"
        assert kept(ORIGIN, bytes(32)) == kept(ORIGIN, size=head.size + 1) == "LE020"
        assert kept("evil.example/other") == kept("/main") == "LE020"
        for bad in ("", "\n", "junk\n", line, f"{line}=\n", f"{line}\n\n{line}\n", "— a\u2003b AAAAAAAA\n",
                    "— a+b AAAAAAA=\n", "— ab AAAAAA==\n", "— ab AAAAAAB=\n", f"{line}\n" + "x" * 70000):  # fmt: skip
            assert kept(ORIGIN, signatures=bad) == "LE020", bad
        many = "".join(f"— evil{number} AAAAAAA=\n" for number in range(100))
        assert kept(ORIGIN, signatures=many) == "", "as many as a note may have"
    signed = full.checkpoint(key, new_state=True)
    assert verified_by(parse_note_of(signed.note), [Verifier.parse(read_key(key).vkey)])
    assert full.verify().findings == []
    works(full, key, tmp_path)


def parse_note_of(note: bytes):  # type: ignore[no-untyped-def]
    """Of any number of signatures."""
    text, _, lines = note.partition(b"\n\n")
    return parse_note(text + b"\n\n" + b"\n".join(lines.split(b"\n")[-3:]))


def test_a_wrong_tree_is_superseded_on_the_record(
    full: Ledger, key: Path, admin: psycopg.Connection, login: Logins, tmp_path: Path
) -> None:
    """Tiles and a checkpoint from before these checks, of the right form and wrong."""
    size = full.tail().position
    false = sign(Checkpoint("evil.example/main", 7, bytes(32)).text, [FileSigner("evil.example/main", bytes(32))])
    admin.execute("alter table ledger.tiles disable trigger all")
    admin.execute(
        "update ledger.tiles set hashes = decode(repeat('11', 32), 'hex') || substr(hashes, 33) where level = 0"
    )
    admin.execute("alter table ledger.tiles enable always trigger append_only")
    admin.execute("alter table ledger.tiles enable always trigger grow_only")
    admin.execute(
        "insert into ledger.checkpoints (ledger_id, size, root, note) values (1, 7, %s, %s)",
        (bytes(32), false.decode()),
    )
    full.append_many(events(300))
    kinds = {finding.kind for finding in full.verify().findings}
    assert kinds == {"tree_mismatch", "rewritten"}
    with pytest.raises(Exception, match="tree_mismatch"):
        full.checkpoint(key)
    with Ledger.open(database_url=login("ledger_admin")) as administering:
        with pytest.raises(UsageError, match="no checkpoint of 8 entries"):
            administering.rebuild_tree("user:root", "junk", checkpoints=[8])
        receipt = administering.rebuild_tree("user:root", "junk was written there", checkpoints=[7])
    [entry] = full.read(after=receipt.position - 1, limit=1)
    assert entry.action == "ledger.tree_rebuilt" and entry.metadata["tree"]["checkpoints"] == [false.decode()]
    assert entry.metadata["tree"]["leaves"] == size - 1  # the last entry is the erasure of `works`
    works(full, key, tmp_path)
    assert full.verify().notes == (f"the tree was rebuilt at entry {receipt.position} by user:root",)
    for role in ("ledger_writer", "ledger_projector", "ledger_eraser"):
        with Ledger.open(database_url=login(role)) as other, pytest.raises(UsageError, match="may not"):
            other.rebuild_tree("user:root", "junk")
    ran = cli_of(full).well("rebuild-tree", "--actor", "user:root", "--reason", "again")
    assert "makes them again" in ran.err
    works(full, key, tmp_path)


def test_a_signer_never_signs_against_its_state(full: Ledger, key: Path, admin: psycopg.Connection) -> None:
    """A tree that was rebuilt over other entries than those that were signed."""
    admin.execute("alter table ledger.audit_logs disable trigger all")
    admin.execute("alter table ledger.tails disable trigger all")
    admin.execute("delete from ledger.audit_logs where position > 290")
    admin.execute(
        "update ledger.tails set (position, hash, recorded_at) ="
        " (select position, hash, recorded_at from ledger.audit_logs where position = 290 and ledger_id = 1)"
        " where ledger_id = 1"
    )
    for table in ("audit_logs", "tails"):
        admin.execute(f"alter table ledger.{table} enable trigger all")
    full.rebuild_tree("user:root", "hides it")
    full.append_many(events(300))
    with pytest.raises(Exception, match=r"rewritten|truncated"):
        full.checkpoint(key)
    assert "truncated" not in {finding.kind for finding in full.verify().findings}
