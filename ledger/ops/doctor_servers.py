"""Doctor's checks of the servers: versions, settings, clocks, replication, schema; Redis' persistence and eviction."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ledger.drivers.pools import Connector
from ledger.effects import Command, Plan, Query, Refused, Row
from ledger.errors import IntegrityError, SchemaMismatch
from ledger.migrate.migrate import check_schema, load_migrations
from ledger.ops.doctor_types import Check
from ledger.statements import sql

SQL = sql(__file__)

CLOCK_WARNING, CLOCK_DANGER = 1.0, 5.0
"""Seconds between the clocks of this host and of the database."""
COMMIT_WARNING = 1.0
"""Seconds for which a commit may wait for a synchronous standby."""
WAITS_FOR_STANDBY = (
    "bring the standby back; or, if a failover may lose newer entries: alter system set "
    "synchronous_standby_names = ''; select pg_reload_conf(). Terminating the session does not help: its entry "
    "is recorded here, and its receipt waits for the standby"
)
OLDEST_POSTGRES = 150000
_NOT_PERMITTED = "42501"
OLDEST = {"redis": (7, 0), "valkey": (8, 0)}

# ---------------------------------------------------------------------------------------------------------- Postgres

DURABLE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("fsync", ("off",), "a crash of the host can lose and damage entries that were acknowledged"),
    ("full_page_writes", ("off",), "a crash of the host can damage pages, and entries with them"),
    ("synchronous_commit", ("off",), "a crash can lose the entries of the last moments that were acknowledged"),
    ("zero_damaged_pages", ("on",), "damaged pages are emptied instead of reported"),
    ("ignore_checksum_failure", ("on",), "damaged pages are read as if they were sound"),
)


def check_captures() -> Plan[list[Check]]:
    """One check for each problem by which changes of a captured table are not recorded. None for who may not see it."""
    try:
        rows = yield Query(SQL["captures"])
    except Refused as refused:
        if refused.sqlstate != _NOT_PERMITTED:
            raise
        return []
    advice = "find out who changed it and when; 'auditledger capture install' with the same options makes it anew"
    return [Check(f"capture of {table}", "danger", problem, advice) for table, problem in rows]


def check_postgres() -> Plan[list[Check]]:
    """Version, recovery, durability settings and synchronous standbys."""
    [(version, number, standby, named)] = yield Query(SQL["server"])
    checks = [Check("postgres", "ok", f"PostgreSQL {version}")]
    if number < OLDEST_POSTGRES:
        checks = [Check("postgres", "danger", f"PostgreSQL {version}", "upgrade to 15 or newer; 17 and 18 are tested")]
    if standby:
        checks.append(Check("recovery", "warning", "a standby", "it takes no appends: give the primary's URL"))
    values = dict((yield Query(SQL["settings"], ([name for name, *_ in DURABLE],))))
    elsewhere = yield Query(SQL["settings_of_others"])
    for name, bad, harm in DURABLE:
        if name not in values:
            checks.append(Check(name, "unknown", "cannot be seen by this database user"))
        elif values[name] in bad:
            good = "on" if "off" in bad else "off"
            how = f"alter system set {name} = {good}; select pg_reload_conf()"
            checks.append(Check(name, "danger", values[name], f"{harm}: {how}"))
        else:
            checks.append(Check(name, "ok", values[name]))
        checks += _set_elsewhere(name, bad, harm, elsewhere)
    if named and values.get("synchronous_commit") in ("local", "remote_write"):
        what = f"synchronous_commit is {values['synchronous_commit']}, though there are synchronous standbys"
        advice = "a failover can lose acknowledged entries: set synchronous_commit to on or remote_apply"
        checks.append(Check("standbys", "warning", what, advice))
    [(waiting, seconds)] = yield Query(SQL["commits_that_wait"])
    if seconds > COMMIT_WARNING:
        what = f"commits wait for a synchronous standby ({waiting} now, the longest for {seconds:.0f} s)"
        checks.append(Check("standbys", "warning", what, WAITS_FOR_STANDBY))
    return checks


def _set_elsewhere(name: str, bad: tuple[str, ...], harm: str, elsewhere: list[Row]) -> Iterator[Check]:
    """The same setting, set for a role or a database: it may apply to sessions that append, though not to this one."""
    for role, database, setting in elsewhere:
        key, _, value = setting.partition("=")
        if key == name and value.lower() in {*bad, *(_SYNONYMS[each] for each in bad)}:
            whose = " in ".join(filter(None, (role and f"role {role}", database and f"database {database}")))
            whose = whose or "role all"
            yield Check(name, "danger", f"{value} for {whose}", f"{harm}: alter {whose} reset {name}")


_SYNONYMS = {"off": "false", "on": "true"}


def check_clock() -> Plan[Check]:
    """Compares the database's clock with this host's. The uncertainty is half of the round trip."""
    before = time.time()
    [(database_time,)] = yield Query(SQL["clock"])
    after = time.time()
    offset, uncertainty = database_time - (before + after) / 2, (after - before) / 2
    direction = "behind" if offset > 0 else "ahead of"
    text = f"this host is {abs(offset):.3f} s {direction} the database (± {uncertainty:.3f} s)"
    advice = "synchronise both clocks by NTP: occurred_at is the application host's time unless it is given"
    certain = abs(offset) - uncertainty
    if certain > CLOCK_WARNING:
        return Check("clock", "danger" if certain > CLOCK_DANGER else "warning", text, advice)
    return Check("clock", "ok", text)


def check_replication() -> Plan[list[Check]]:
    """Finds logical replication of the ledger's tables, in either direction."""
    checks = []
    how = "see docs/operations.md, 'A copy by logical replication'"
    for name, is_subscription, refused in (yield Query(SQL["replication"])):
        if not is_subscription:
            text = f"publication {name} sends the ledger's tables: its subscriber stops at the first append"
            advice = f"prefer physical replication, pg_upgrade or a dump; for logical replication {how}"
            checks.append(Check("replication", "warning", text, advice))
        elif refused:
            text = f"subscription {name} writes into the ledger's tables, whose triggers refuse its rows"
            checks.append(Check("replication", "danger", text, f"it stops at the first append: {how}"))
        else:
            text = f"subscription {name} writes into the ledger's tables, whose triggers let it"
            advice = f"append only after the subscription is dropped and the triggers are ALWAYS again: {how}"
            checks.append(Check("replication", "warning", text, advice))
    return checks or [Check("replication", "ok", "no logical replication of the ledger's tables")]


def check_migrations(connector: Connector) -> Check:
    """Compares the database's migrations with the package's. Raises Unavailable."""
    migrations = load_migrations()
    newest = migrations[-1].file
    try:
        newer = connector.run(check_schema(migrations))
    except (SchemaMismatch, IntegrityError) as error:
        return Check("schema", "danger", str(error), "fix this first: the ledgers cannot be checked before")
    if newer:
        text = f"at {newer[-1]}, newer than this package, which is compatible"
        return Check("schema", "warning", text, "upgrade auditledger on this host: it misses the newer protections")
    return Check("schema", "ok", f"at {newest}")


# ------------------------------------------------------------------------------------------------------------- Redis


def check_redis() -> Plan[list[Check]]:
    """Version, role, eviction policy and append-only file."""
    text = (yield Command(("INFO",))).decode(errors="replace")
    info = dict(line.partition(":")[::2] for line in text.splitlines() if ":" in line)
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    checks = []
    shown = f"{kind.capitalize()} {version}"
    oldest = OLDEST[kind]
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < oldest:
        checks.append(Check("redis", "danger", shown, f"upgrade to {'.'.join(map(str, oldest))} or newer"))
    else:
        checks.append(Check("redis", "ok", shown))
    if info.get("role", "master") != "master":
        checks.append(Check("redis role", "warning", info["role"], "it takes no writes: give the master's URL"))
    checks.append(_eviction(info))
    if info.get("aof_enabled") != "1":
        harm = "a crash of Redis loses entries since its last snapshot, until the relay publishes them again"
        checks.append(Check("appendonly", "danger", "no", f"{harm}: CONFIG SET appendonly yes, and in redis.conf"))
    elif info.get("aof_last_write_status", "ok") != "ok":
        checks.append(Check("appendonly", "danger", "writing it failed", "check Redis' log and disk"))
    else:
        checks.append(Check("appendonly", "ok", "yes"))
    return checks


def _eviction(info: dict[str, str]) -> Check:
    """Streams have no expiry, so only the `allkeys` policies evict them."""
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Check("maxmemory-policy", "unknown", "not reported by Redis")
    if policy.startswith("allkeys"):
        advice = "Redis evicts whole streams when its memory is full: CONFIG SET maxmemory-policy noeviction"
        return Check("maxmemory-policy", "danger", policy, f"{advice}, and in redis.conf")
    return Check("maxmemory-policy", "ok", policy)
