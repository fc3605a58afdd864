"""`migrate`, and the creation of read views, leave no privileges of default privileges."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from ledger_projections import Timeline

from ledger import Ledger
from ledger.migrate.migrate import migrate, schema_folder
from ledger.projection.rebuild import rebuild
from ledger.settings import Settings
from ledger.verify import database
from tests.support.views import project, some_events

KINDS = ("tables", "sequences", "functions", "types", "schemas")
GIVEN = """
select what from (
    select 'schema ' || nspname, nspowner, nspacl from pg_namespace where nspname ^@ 'ledger'
    union all
    select 'relation ' || oid::regclass, relowner, relacl from pg_class
    where relnamespace::regnamespace::text ^@ 'ledger'
    union all
    select 'type ' || oid::regtype, typowner, typacl from pg_type where typnamespace::regnamespace::text ^@ 'ledger'
    union all
    select 'function ' || oid::regprocedure, proowner, coalesce(proacl, acldefault('f', proowner))
    from pg_proc where pronamespace::regnamespace::text ^@ 'ledger'
) as made (what, owner, acl), aclexplode(acl) as given
where given.grantee = {} and given.grantee <> owner
"""


def defaults(admin: psycopg.Connection) -> list[tuple[object, ...]]:
    return admin.execute(
        "select defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype, acl.grantee,"
        " acl.privilege_type, acl.is_grantable from pg_default_acl, aclexplode(defaclacl) as acl order by 1, 2, 3, 4, 5"
    ).fetchall()


@pytest.fixture
def anon(database_url: str) -> Iterator[psycopg.Connection]:
    """The superuser's connection to a database without a schema, while there is a role test_anon."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("drop role if exists test_anon")
        admin.execute("create role test_anon")
        yield admin
        admin.execute("drop owned by test_anon; drop role test_anon")


def granting(admin: psycopg.Connection, who: str, schemas: tuple[str, ...] = ("",), *, back: bool = False) -> None:
    """All default privileges that there are, of the migrating user and of ours, to test_anon. back: from it again."""
    for role in (str(admin.info.user), "ledger_owner", "ledger_projector"):
        if admin.execute("select to_regrole(%s)", (role,)).fetchall() == [(None,)]:
            continue
        for schema in schemas:
            for kind in KINDS:
                if schema and kind == "schemas":
                    continue
                where = f" in schema {schema}" if schema else ""
                option = "" if who == "public" else " with grant option"
                what = f"revoke all on {kind} from {who}" if back else f"grant all on {kind} to {who}{option}"
                admin.execute(f"alter default privileges for role {role}{where} {what}".encode())


@pytest.mark.parametrize("who", ["test_anon", "ledger_writer"])
def test_migrate_gives_what_it_says(anon: psycopg.Connection, database_url: str, who: str) -> None:
    """Default privileges for everything, and for schemas that come later; afterwards they are as they were."""
    if anon.execute("select to_regrole('ledger_owner')").fetchall() == [(None,)]:
        migrate(Settings(database_url=database_url))  # makes the roles
        anon.execute("drop schema ledger cascade; drop schema ledger_views cascade")
    granting(anon, who)
    before = defaults(anon)
    settings = Settings(database_url=database_url)
    migrate(settings)
    assert [each for each in defaults(anon) if each[0] != "ledger_owner"] == [
        each for each in before if each[0] != "ledger_owner"
    ]
    if who == "test_anon":
        assert anon.execute(GIVEN.format("'test_anon'::regrole")).fetchall() == []
    assert anon.execute(GIVEN.format("0") + " and what ^@ 'function'").fetchall() == []
    with Ledger.open(database_url=database_url) as ledger:
        ledger.append_many(some_events(5))
        project(ledger)
        rebuild(settings, Timeline())
        if who == "test_anon":
            assert anon.execute(GIVEN.format("'test_anon'::regrole") + " and what ^@ 'relation'").fetchall() == []
        # They are named, for what these roles make next; of what was made there is nothing to say.
        findings = database.verify(settings).findings
        assert findings and {each.kind for each in findings} == {"unprotected"}
        roles = "ledger_owner|ledger_projector"
        named = re.compile(
            rf"default privileges new \w+ of ({roles}) is not of the schema|"
            rf"{who} has \w+( with grant option)? on new \w+ of ({roles}): more than the schema grants"
        )
        assert [each.detail for each in findings if not named.fullmatch(each.detail)] == []
        assert {role for each in findings for role in roles.split("|") if role in each.detail} == set(roles.split("|"))
        granting(anon, who, back=True)
        assert database.verify(settings).findings == []


def test_a_migration_over_a_schema_with_defaults(anon: psycopg.Connection, database_url: str, tmp_path: Path) -> None:
    """As when a new migration comes to a database whose schemas have default privileges of their own."""
    older = tmp_path / "schema"
    shutil.copytree(schema_folder(), older)
    lines = json.loads((older / "journal.json").read_text())
    (older / lines.pop()["file"]).unlink()
    (older / "journal.json").write_text(json.dumps(lines))
    settings = Settings(database_url=database_url)
    migrate(settings, folder=older)
    granting(anon, "test_anon", ("", "ledger", "ledger_views"))
    before = defaults(anon)
    assert len(migrate(settings)) == 1
    assert defaults(anon) == before
    given = GIVEN.format("'test_anon'::regrole")
    assert anon.execute(given).fetchall() == []
    with Ledger.open(database_url=database_url) as ledger:
        ledger.append_many(some_events(5))
        project(ledger)
        assert anon.execute(given + " and what ^@ 'relation'").fetchall() == []
        rebuild(settings, Timeline())
        assert anon.execute(given + " and what ^@ 'relation'").fetchall() == []
