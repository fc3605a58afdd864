"""Jobs that bring about what the others need: the schema, and a further ledger."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg

from ledger.drivers.pools import Connector
from ledger.migrate.migrate import migrate
from ledger.store.ledgers import create_ledger
from tests.faults.crashing.jobs import Job, Tell, World, again

_SCHEMA = """
select 'function ' || pg_get_functiondef(oid) || coalesce(proacl::text, '')
from pg_proc where pronamespace::regnamespace::text like 'ledger%%'
union all
select 'trigger ' || pg_get_triggerdef(oid) || tgenabled::text from pg_trigger where not tgisinternal
union all
select 'constraint ' || conname || pg_get_constraintdef(oid)
from pg_constraint where connamespace::regnamespace::text like 'ledger%%'
union all
select 'policy ' || polname || polrelid::regclass || polcmd::text || coalesce(pg_get_expr(polqual, polrelid), '')
from pg_policy
union all
select 'index ' || indexdef from pg_indexes where schemaname like 'ledger%%'
union all
select 'relation ' || oid::regclass || relkind::text || relowner::regrole || relrowsecurity
    || coalesce(relacl::text, '')
from pg_class where relnamespace::regnamespace::text like 'ledger%%'
union all
select 'column ' || attrelid::regclass || attname || atttypid::regtype || attnotnull || coalesce(attacl::text, '')
from pg_attribute join pg_class on pg_class.oid = attrelid
where relnamespace::regnamespace::text like 'ledger%%' and attnum > 0
union all
select 'schema ' || nspname || nspowner::regrole || coalesce(nspacl::text, '')
from pg_namespace where nspname like 'ledger%%'
union all
select 'migration ' || file || sha256 from ledger.migrations
union all
select 'ledger ' || name from ledger.ledgers
order by 1
"""


def schema(connection: psycopg.Connection) -> list[tuple[str]]:
    """All that a migration makes, as text."""
    return connection.execute(_SCHEMA).fetchall()


class Migrate(Job):
    """An empty database is given the schema."""

    def run(self, tell: Tell) -> None:
        migrate(self.settings)


class Create(Job):
    """A further ledger."""

    def prepare(self, world: World) -> None:
        world.ledger.append(self.event(0))

    def run(self, tell: Tell) -> None:
        with closing(Connector(self.settings)) as servers:
            again(lambda: servers.run(create_ledger(self._ledger)))

    def check(self, world: World, told: Sequence[tuple[Any, ...]]) -> None:
        found = "select count(*) from ledger.ledgers join ledger.tails using (ledger_id) where name = %s"
        assert world.admin.execute(found, (self._ledger,)).fetchall() == [(1,)]

    @property
    def _ledger(self) -> str:
        return self.name.replace(" ", "-").replace(",", "").lower()
