"""The migrations make what schema/declared/ declares; and `make migration`, which writes the next one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.helpers import OwnServers
from tools import agreement, declared, dump, journal, migration

SCHEMA = Path(__file__).parents[3] / "schema"
NEWEST = max(file.name for file in SCHEMA.glob("*.sql"))
NEXT = f"{int(NEWEST[:4]) + 1:04}"


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(SCHEMA, tmp_path / "schema"))


@pytest.fixture
def server(own_servers: OwnServers) -> Iterator[str]:
    """Without roles: those of a ledger belong to a whole cluster."""
    yield own_servers.database_url


def change(schema: Path, file: str, old: str, new: str) -> None:
    """Of a declared file."""
    path = schema / "declared" / file
    text = path.read_text()
    assert text.count(old) == 1, (file, old)
    path.write_text(text.replace(old, new))


def test_the_migrations_make_what_is_declared(server: str) -> None:
    """If this fails: run `make migration`, which says what differs and what to do."""
    with agreement.compared(SCHEMA, server) as comparison:
        assert comparison.differences == []
    with psycopg.connect(server) as connection:
        assert connection.execute("select rolname from pg_roles where rolname ^@ 'ledger_'").fetchall() == []


CHANGES = [
    ("tables/tails.sql", "fence bigint", "fence int", "TABLE ledger.tails"),
    ("tables/holds.sql", "resource_id text not null", "resource_id text", "TABLE ledger.holds"),
    ("tables/projections.sql", "default false", "default true", "TABLE ledger.projections"),
    ("tables/subscriptions.sql", "fillfactor = 50", "fillfactor = 60", "TABLE ledger.subscriptions"),
    ("tables/tiles.sql", "storage external", "storage main", "TABLE ledger.tiles"),
    ("tables/verifications.sql", "first bigint not null,\n    last bigint not null", "last bigint not null,\n"
     "    first bigint not null", "TABLE ledger.verifications"),
    ("tables/checkpoints.sql", "size >= 0", "size > 0", "TABLE ledger.checkpoints"),
    ("tables/audit_logs.sql", "(ledger_id, recorded_at)", "(ledger_id, occurred_at)",
     "INDEX ledger.audit_logs_by_time"),
    ("tables/audit_logs.sql", "alter table ledger.audit_logs enable always trigger own_actions;", "",
     "TRIGGER ledger.audit_logs own_actions"),
    ("tables/tails.sql", "pg_trigger_depth() = 0", "pg_trigger_depth() < 2", "TRIGGER ledger.tails moved_by_entries"),
    ("tables/ledgers.sql", "append_only before update or delete", "append_only before delete",
     "TRIGGER ledger.ledgers append_only"),
    ("tables/readers.sql", "ledger_id of NULL", "ledger_id of null", "COMMENT ledger.TABLE readers"),
    ("tables/tails.sql", "Means nothing", "Means little", "COMMENT ledger.COLUMN tails.fence"),
    ("tables/migrations.sql", "grant select on", "grant select, insert on", "ACL ledger.TABLE migrations"),
    ("tables/tails.sql", "update (fence)", "update (epoch)", "ACL ledger.COLUMN tails.fence"),
    ("tables/subscriptions.sql", "('ledger.subscriptions', 'ledger_projector')", "('ledger.subscriptions')",
     "POLICY ledger.subscriptions everything"),
    ("tables/verifications.sql", "select ledger.restrict_readers('ledger.verifications', 'ledger_projector');", "",
     "ROW SECURITY ledger.verifications"),
    ("functions/move_tail.sql", "security definer ", "", "FUNCTION ledger.move_tail()"),
    ("functions/grow_tile.sql", "set search_path = pg_catalog, pg_temp ", "", "FUNCTION ledger.grow_tile()"),
    ("functions/swap_in.sql", "blindly.", "without them.", "FUNCTION ledger.swap_in(text, text[])"),
    ("functions/erase_entry.sql", "to ledger_eraser;", "to ledger_writer;",
     "ACL ledger.FUNCTION erase_entry(erasure ledger.audit_logs)"),
    ("views/entries.sql", "\norder by entry.ledger_id, entry.position", "", "VIEW ledger.entries"),
    ("views/envelopes.sql", " with (security_barrier)", "", "VIEW ledger.envelopes"),
    ("schemas/ledger_views.sql", " authorization ledger_owner", "", "SCHEMA ledger_views"),
    ("schemas/ledger.sql", "revoke execute on functions from public", "grant execute on functions to public",
     "DEFAULT ACL DEFAULT PRIVILEGES FOR FUNCTIONS"),
    ("roles.sql", "with admin option;", ";", "roles"),
]  # fmt: skip


def test_each_difference_is_named(schema: Path, server: str) -> None:
    """In whatever pg_dump tells of an object, of whatever kind."""
    for file, old, new, _ in CHANGES:
        change(schema, file, old, new)
    with agreement.compared(schema, server) as comparison:
        named = {text.partition("\n")[0] for text in comparison.differences}
        assert all(re.search(r"\n    [-+].", text) for text in comparison.differences)
        [roles] = [text for text in comparison.differences if text.startswith("roles\n")]
        assert re.findall(r"^    ([-+]).*\"admin_option\": (\w+)", roles, re.MULTILINE) == [
            (sign, option) for sign, option in (("-", "true"), ("+", "false")) for _ in range(6)
        ]  # fmt: skip
    expected = {name for *_, name in CHANGES}
    assert expected <= named
    beside = {
        "ACL ledger.COLUMN checkpoints.root", "ACL ledger.COLUMN tails.epoch", "POLICY ledger.verifications readable",
        "POLICY ledger.verifications everything", "ACL SCHEMA ledger_views", "COMMENT SCHEMA ledger_views",
    }  # fmt: skip
    # Without the default privileges, everybody may execute what does not say otherwise.
    assert {name for name in named - expected - beside if not name.startswith("ACL ledger.FUNCTION ")} == set()


def test_a_file_declares_the_object_that_it_is_named_after(schema: Path) -> None:
    folder = schema / "declared"
    (folder / "views" / "entries.sql").rename(folder / "views" / "others.sql")
    with pytest.raises(declared.DeclarationError, match=r"^views/others.sql: it must begin with 'create view ledger."):
        declared.objects(folder)
    (folder / "views" / "others.sql").write_text("create view ledger.others as select 1 as one;\nselect ';' -- ;")
    with pytest.raises(declared.DeclarationError, match=r"^views/others.sql: its last statement has no semicolon"):
        declared.objects(folder)


def test_what_cannot_be_loaded_is_named(schema: Path, template: str, database_url: str) -> None:
    change(schema, "functions/named_entry.sql", "entry ledger.audit_logs", "entry ledger.nothing")
    message = r"^functions/named_entry.sql: type ledger.nothing does not exist"
    with psycopg.connect(database_url, autocommit=True) as connection:
        with pytest.raises(declared.DeclarationError, match=message):
            declared.load(schema / "declared", connection)
        with pytest.raises(declared.DeclarationError, match=r"^views/x.sql: syntax error"):
            declared.run([declared.Statement(Path("views/x.sql"), "create view but;")], connection)


# ------------------------------------------------------------------------------------------------------ make migration

THINGS = """\
-- Things; of no use.
create table ledger.things (
    ledger_id int not null,
    name text not null,
    primary key (ledger_id, name)
);
comment on table ledger.things is 'Of no use.';

create trigger watched after update on ledger.things
    for each row execute function ledger.watch();
alter table ledger.things enable always trigger watched;

select ledger.restrict_readers('ledger.things', 'ledger_projector');
grant select on ledger.things to ledger_reader, ledger_projector;
"""
WATCH = """\
create function ledger.watch() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return new;  -- nothing; really
end
$$;
"""


def test_a_migration_is_written_and_recorded(schema: Path, server: str) -> None:
    """What is new as it is declared; what changed by the statements that make the difference."""
    pytest.importorskip("results")
    (schema / "declared/tables/things.sql").write_text(THINGS)
    (schema / "declared/functions/watch.sql").write_text(WATCH)
    change(schema, "tables/subscriptions.sql", "    primary key", "    paused_at timestamptz,\n    primary key")
    change(schema, "functions/swap_in.sql", "blindly.", "without them.")
    before = (schema / "journal.json").read_text()
    said = migration.make(schema, "things", server)
    file = f"{NEXT}_things.sql"
    assert said == f"{file} makes what schema/declared/ says, and is recorded in the journal."
    text = (schema / file).read_text()
    assert THINGS in text and WATCH in text
    assert 'alter table "ledger"."subscriptions" add column "paused_at" timestamp with time zone;' in text
    assert "create or replace function ledger.swap_in(building_schema text, tables text[]) returns void\n" in text
    assert (schema / "journal.json").read_text().startswith(before.removesuffix("\n]\n") + ",\n")
    assert journal.unrecorded(schema) == []
    made = (schema / "catalog.json").read_text()
    assert '"ledger.subscriptions.paused_at"' in made and '"watched on ledger.things"' in made
    assert migration.make(schema, "again", server) == "The migrations make what schema/declared/ says."
    assert len(list(schema.glob("*.sql"))) == len(list(SCHEMA.glob("*.sql"))) + 1


def test_what_cannot_be_written_is_asked_for(schema: Path, server: str) -> None:
    """The migration is not recorded before it is whole; then it is, whoever wrote it."""
    pytest.importorskip("results")
    before = (schema / "journal.json").read_text()
    change(schema, "tables/subscriptions.sql", "grant select on", "grant select, delete on")
    change(schema, "tables/subscriptions.sql", "    updated_at timestamptz not null default now(),\n", "")
    with pytest.raises(migration.Refused, match="Write the next one with make migration NAME=what_it_does") as refused:
        migration.make(schema, None, server)
    grant = "GRANT SELECT,DELETE ON TABLE ledger.subscriptions TO ledger_reader;"
    assert grant in str(refused.value) and journal.unrecorded(schema) == []
    with pytest.raises(migration.Refused, match=f"Write the rest by hand into {NEXT}_trim.sql") as refused:
        migration.make(schema, "trim", server)
    assert grant in str(refused.value) and "updated_at" not in str(refused.value)
    with pytest.raises(migration.Refused, match=f"^{NEXT}_trim.sql is not done yet"):
        migration.make(schema, "other", server)
    [file] = journal.unrecorded(schema)
    with file.open("a") as written:
        written.write("grant delete on ledger.subscriptions to ledger_reader;\n")
    assert (schema / "journal.json").read_text() == before
    said = migration.make(schema, None, server)
    assert said.startswith(f"{NEXT}_trim.sql makes what schema/declared/ says, and is recorded")
    assert said.endswith('"subscriptions" drop column "updated_at";')  # not without a question
    assert journal.unrecorded(schema) == []


def test_landed_migrations_stay_as_they_are(schema: Path, server: str) -> None:
    (schema / f"{NEXT}_more.sql").write_text("select 1;")
    (schema / NEWEST).write_text((schema / NEWEST).read_text() + "-- harmless\n")
    with pytest.raises(journal.JournalMismatch, match=f"^{NEWEST} differs from its line in the journal"):
        migration.make(schema, None, server)
    (schema / "0001_more.sql").write_text("select 1;")
    with pytest.raises(migration.Refused, match=f"not 0001_more.sql, {NEXT}_more.sql$"):
        migration.make(schema, None, server)


def test_the_command(tmp_path: Path) -> None:
    """With a server of its own; the checkout's own schema needs no migration."""
    command = [sys.executable, "-m", "tools.migration"]
    done = subprocess.run(command, cwd=SCHEMA.parent, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "The migrations make what schema/declared/ says.\n"), done.stderr
    done = subprocess.run(
        [*command, "0007-x"], cwd=SCHEMA.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and "a name is of small letters, digits and _" in done.stderr


def test_without_pg_dump_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(dump, "Postgres", type("None", (), {"wheel": _NoWheel}))
    with pytest.raises(dump.DumpFailed, match="pg_dump is not found: pip install"):
        dump.dump("postgresql://nobody@127.0.0.1:1/nothing")


class _NoWheel:
    @staticmethod
    def installed() -> Path:
        return Path("/nowhere/postgres")
