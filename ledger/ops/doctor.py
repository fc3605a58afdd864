"""What endangers a ledger, and what to do about it: versions, settings, protections, clocks, lag.

`danger` endangers integrity or durability; `warning` is not as it should be; `unknown` could not be seen, because a
server is away or the database user may not see it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple, TypeAlias

from ledger.drivers.pools import Connector
from ledger.effects import Command, Plan, Query, Row
from ledger.errors import IntegrityError, LedgerError, SchemaMismatch, Unavailable
from ledger.migrate.journal import load
from ledger.migrate.migrate import check_schema
from ledger.ops.status import REDIS_TIMEOUT, look
from ledger.ops.status_types import NOT_SET, OK, Holder, Lag, LedgerState, Overview
from ledger.statements import sql

SQL = sql(__file__)
Level: TypeAlias = Literal["ok", "warning", "danger", "unknown"]

LATE = 60.0
"""Seconds of lag from which on there is a warning."""
CLOCK_WARNING, CLOCK_DANGER = 1.0, 5.0
"""Seconds between the clocks of this host and of the database."""
OLDEST_POSTGRES = 150000
OLDEST = {"redis": (7, 0), "valkey": (8, 0)}
VERIFY_EVERY = 7 * 86_400.0
"""Seconds without a verification after which there is a warning."""


class Check(NamedTuple):
    """One thing that was looked at. found: what it is. advice: what to do, where something is."""

    name: str
    level: Level
    found: str
    advice: str | None = None


class Diagnosis(NamedTuple):
    """postgres, redis: `ok`, `not set`, or why it is away."""

    postgres: str
    redis: str
    checks: tuple[Check, ...]

    @property
    def away(self) -> bool:
        return self.postgres != OK or self.redis not in (OK, NOT_SET)

    @property
    def danger(self) -> bool:
        return any(check.level == "danger" for check in self.checks)


def examine(connector: Connector, names: Collection[str] | None) -> Diagnosis:
    """Both servers and all ledgers, or those named. Raises UnknownLedger."""
    checks: list[Check] = []
    overview: Overview | None = None
    postgres = _ask(connector, checks, "postgres")
    if postgres == OK:
        try:
            schema = _schema(connector)
        except Unavailable as error:
            postgres = str(error)
        else:
            checks.append(schema)
            checks += connector.run(_replication())
            overview = look(connector, names) if schema.level == "ok" else None
    redis = NOT_SET if connector.settings.redis_url is None else _ask(connector, checks, "redis")
    if overview is not None:
        checks += _protections(overview)
        for ledger in overview.ledgers:
            checks += _ledger(ledger)
            checks += [] if "verified" in overview.hidden else _verified(ledger)
        checks += [Check(what, "unknown", "cannot be seen by this database user") for what in overview.hidden]
        postgres = postgres if overview.postgres == OK else overview.postgres
        redis = overview.redis if redis == OK else redis
    return Diagnosis(postgres, redis, tuple(checks))


def _ask(connector: Connector, checks: list[Check], which: Literal["postgres", "redis"]) -> str:
    """Adds what a server says of itself; `ok`, or why it is away."""
    try:
        if which == "postgres":
            checks += connector.run(_postgres())
            checks.append(connector.run(_clock()))
            return OK
        client = connector.new_redis(REDIS_TIMEOUT)
        try:
            checks += connector.run(_redis(), client)
        finally:
            client.close()
        return OK
    except Unavailable as error:
        return str(error)
    except LedgerError as error:
        if which == "postgres":
            raise
        return str(error)  # as with Redis loading its data, or refusing INFO


# ---------------------------------------------------------------------------------------------------------- Postgres

_DURABLE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("fsync", ("off",), "a crash of the host can lose and damage entries that were acknowledged"),
    ("full_page_writes", ("off",), "a crash of the host can damage pages, and entries with them"),
    ("synchronous_commit", ("off",), "a crash can lose the entries of the last moments that were acknowledged"),
    ("zero_damaged_pages", ("on",), "damaged pages are emptied instead of reported"),
    ("ignore_checksum_failure", ("on",), "damaged pages are read as if they were whole"),
)


def _postgres() -> Plan[list[Check]]:
    [(version, number, standby, named)] = yield Query(SQL["server"])
    checks = [Check("postgres", "ok", f"PostgreSQL {version}")]
    if number < OLDEST_POSTGRES:
        checks = [Check("postgres", "danger", f"PostgreSQL {version}", "upgrade to 15 or newer; 17 and 18 are tested")]
    if standby:
        checks.append(Check("recovery", "warning", "a standby", "nothing can be appended here: give the primary's URL"))
    found = dict((yield Query(SQL["settings"], ([name for name, *_ in _DURABLE],))))
    elsewhere = yield Query(SQL["settings_of_others"])
    for name, bad, harm in _DURABLE:
        if name not in found:
            checks.append(Check(name, "unknown", "cannot be seen by this database user"))
        elif found[name] in bad:
            good = "on" if "off" in bad else "off"
            how = f"alter system set {name} = {good}; select pg_reload_conf()"
            checks.append(Check(name, "danger", found[name], f"{harm}: {how}"))
        else:
            checks.append(Check(name, "ok", found[name]))
        checks += _set_elsewhere(name, bad, harm, elsewhere)
    if named and found.get("synchronous_commit") in ("local", "remote_write"):
        what = f"synchronous_commit is {found['synchronous_commit']}, though there are synchronous standbys"
        advice = "a failover can lose acknowledged entries: set synchronous_commit to on or remote_apply"
        checks.append(Check("standbys", "warning", what, advice))
    return checks


def _set_elsewhere(name: str, bad: tuple[str, ...], harm: str, elsewhere: list[Row]) -> Iterator[Check]:
    """The same setting, made for a role or a database: this session may not have it, those that append may."""
    for role, database, setting in elsewhere:
        key, _, value = setting.partition("=")
        if key == name and value.lower() in {*bad, *(_SYNONYMS[each] for each in bad)}:
            whose = " in ".join(filter(None, (role and f"role {role}", database and f"database {database}")))
            whose = whose or "role all"
            yield Check(name, "danger", f"{value} for {whose}", f"{harm}: alter {whose} reset {name}")


_SYNONYMS = {"off": "false", "on": "true"}


def _clock() -> Plan[Check]:
    """The database's clock less this host's, in seconds; the answer's way back and forth is what cannot be known."""
    before = time.time()
    [(theirs,)] = yield Query(SQL["clock"])
    after = time.time()
    off, unsure = theirs - (before + after) / 2, (after - before) / 2
    found = f"this host is {abs(off):.3f} s {'behind' if off > 0 else 'ahead of'} the database (± {unsure:.3f} s)"
    advice = "set both clocks by NTP: occurred_at of entries follows the application's host unless it is given"
    certain = abs(off) - unsure
    if certain > CLOCK_WARNING:
        return Check("clock", "danger" if certain > CLOCK_DANGER else "warning", found, advice)
    return Check("clock", "ok", found)


def _replication() -> Plan[list[Check]]:
    """Logical replication into the ledger's tables, or out of them."""
    checks = []
    how = "see docs/operations.md, 'A copy by logical replication'"
    for name, comes_in, refused in (yield Query(SQL["replication"])):
        if not comes_in:
            found = f"publication {name} sends the ledger's tables: a copy that it makes stops at the first append"
            advice = f"physical replication, pg_upgrade and a dump need no more; for logical replication {how}"
            checks.append(Check("replication", "warning", found, advice))
        elif refused:
            found = f"subscription {name} writes into the ledger's tables, whose triggers refuse its rows"
            checks.append(Check("replication", "danger", found, f"it stops at the first append: {how}"))
        else:
            found = f"subscription {name} writes into the ledger's tables, whose triggers let it"
            advice = f"append nothing here before the subscription is dropped and the triggers are ALWAYS again: {how}"
            checks.append(Check("replication", "warning", found, advice))
    return checks or [Check("replication", "ok", "no logical replication of the ledger's tables")]


def _schema(connector: Connector) -> Check:
    migrations = load()
    newest = migrations[-1].file
    try:
        newer = connector.run(check_schema(migrations))
    except (SchemaMismatch, IntegrityError) as error:
        return Check("schema", "danger", str(error), "nothing else of the ledger could be looked at until that is done")
    if newer:
        found = f"at {newer[-1]}, newer than this package, which works with it"
        return Check("schema", "warning", found, "upgrade auditledger on this host: it cannot judge all that protects")
    return Check("schema", "ok", f"at {newest}")


# ----------------------------------------------------------------------------------------------------------- ledgers


def _protections(overview: Overview) -> list[Check]:
    if overview.unprotected is None:
        return []
    advice = (
        "find out who changed it and when, run 'auditledger verify' over every ledger, and put it back as the "
        "migration in schema/ has it"
    )
    wrong = [Check("protections", "danger", detail, advice) for detail in overview.unprotected]
    return wrong or [Check("protections", "ok", "all in place")]


def _ledger(ledger: LedgerState) -> Iterator[Check]:
    def check(what: str, level: Level, found: str, advice: str | None = None) -> Check:
        return Check(f"{ledger.name}: {what}", level, found, advice)

    if ledger.position is None:
        if ledger.ledger_id is not None:
            yield check("tail", "danger", "missing", f"run 'auditledger --ledger {ledger.name} verify'")
        return
    if ledger.holder is None:
        yield check("tail", "ok", f"at {ledger.position}")
    else:
        yield check("tail", "warning", *_held(ledger.holder))
    for bad in ledger.stopped or ():
        command = f"'auditledger --ledger {ledger.name}"
        advice = (
            f"{command} verify --from {bad.position}' says more; find out who wrote it, restore it, or go on past it "
            f"on the record: {command} quarantine {bad.position} --actor WHO --reason WHY'"
        )
        if bad.damaged:
            advice = "restore Postgres' damaged files from a backup or a standby; then workers go on"
        found = f"entry {bad.position} does not hold, workers stop before it: {bad.found}"
        yield check("entries", "danger", found, advice)
    for refusal in ledger.refusals or ():
        advice = (
            f"'auditledger --ledger {ledger.name} verify --checkpoint FILE' says more; docs/operations.md, 'Signing "
            "again', says what each means; gone once it signs again"
        )
        found = f"{refusal.origin} is not signed, since {refusal.since:%Y-%m-%d %H:%M:%SZ}: {refusal.problem}"
        yield check("signing", "danger", found, advice)
    if ledger.unusable is not None:
        advice = "readers go on from Postgres, the relay waits: it goes on by itself once that is mended"
        yield check("stream", "danger", ledger.unusable, advice)
    if ledger.stream is not None:
        if ledger.stream.diverged:
            command = f"'auditledger --ledger {ledger.name}"
            advice = f"{command} salvage FILE' keeps what only it has; {command} relay --new-epoch' fills it anew"
            yield check("stream", "danger", "diverged: it holds what is not the ledger's", advice)
        elif ledger.stream.lag is not None:
            yield _behind(f"{ledger.name}: stream", ledger.stream.lag, "'auditledger relay' or 'run'")
    for kind, places in (("projection", ledger.projections), ("group", ledger.subscriptions)):
        for place in places or ():
            name = f"{kind} {place.name}"
            if place.ahead:
                what = "replay it" if kind == "projection" else "it goes on at the ledger's end in a new epoch"
                yield check(name, "danger", "ahead of the ledger, which was set back", what)
            elif place.standstill is not None:
                still = place.standstill
                advice = (
                    "'LEDGER_DEBUG=1 auditledger project --once' says more; mend it, or leave the entry out: "
                    f"'auditledger --ledger {ledger.name} skip {place.name} {still.position}'"
                )
                yield check(name, "warning", f"is blocked at entry {still.position}: {still.error}", advice)
            elif place.abandoned:
                yield check(
                    f"{name} (rebuild)", "warning", "was killed, and left copies of bodies that no erasure reaches",
                    f"'auditledger project --once', or 'replay {place.name}', drops them",
                )  # fmt: skip
            elif place.rebuilding:
                yield check(f"{name} (rebuild)", "ok", f"at {place.position}")
            else:
                if place.parked:
                    advice = (
                        f"'auditledger --ledger {ledger.name} parked {place.name}' lists them and hands them out again"
                    )
                    yield check(name, "warning", f"{place.parked} parked", advice)
                worker = "'auditledger project' or 'run'" if kind == "projection" else "its subscriber"
                yield _behind(f"{ledger.name}: {name}", place.lag, worker)


def _held(holder: Holder) -> tuple[str, str]:
    """Who holds a tail, and what to do."""
    who = f"pid {holder.pid}" if holder.pid is not None else holder.prepared
    if "synchronous standby" in (holder.state or ""):
        return f"held by {who}, which waits for a synchronous standby: appends wait", (
            "bring the standby back; or, if a failover may lose what is appended until then: alter system set "
            "synchronous_standby_names = ''; select pg_reload_conf(). Ending the session helps nobody: its entry is "
            "recorded here, and its receipt waits for the standby"
        )
    end = f"select pg_terminate_backend({holder.pid})"
    if holder.pid is None:
        end = f"rollback prepared '{holder.prepared}'"
    advice = f"'auditledger status' says more; to end it: {end}; idle_in_transaction_session_timeout prevents it"
    return f"held by {who}: appends wait", advice


def _behind(name: str, lag: Lag, worker: str) -> Check:
    """worker: what should keep the lag short."""
    if not lag.entries:
        return Check(name, "ok", "up to date")
    found = f"{lag.entries:,} behind"
    if lag.seconds is None:
        return Check(name, "unknown", f"{found}, since when cannot be seen")
    found += f", for {lag.seconds:.0f} s"
    if lag.seconds <= LATE:
        return Check(name, "ok", found)
    return Check(name, "warning", found, f"is {worker} running, and what does it log?")


def _verified(ledger: LedgerState) -> Iterator[Check]:
    name, advice = f"{ledger.name}: verified", f"run 'auditledger --ledger {ledger.name} verify', by a timer too"
    if ledger.verified is None:
        if ledger.position:
            yield Check(name, "warning", "never", advice)
        return
    age = time.time() - ledger.verified.verified_at.timestamp()
    found = f"{ledger.verified.verified_at:%Y-%m-%d %H:%M:%SZ}, up to {ledger.verified.last}"
    if ledger.verified.findings:
        yield Check(name, "danger", f"{found}: {ledger.verified.findings} findings", f"{advice}: it names each")
    elif age > VERIFY_EVERY:
        yield Check(name, "warning", found, advice)
    else:
        yield Check(name, "ok", found)


# ------------------------------------------------------------------------------------------------------------- Redis


def _redis() -> Plan[list[Check]]:
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
        checks.append(
            Check("redis role", "warning", info["role"], "the relay cannot publish here: give the master's URL")
        )
    checks.append(_eviction(info))
    if info.get("aof_enabled") != "1":
        harm = "a crash of Redis loses what its last snapshot lacks, until the relay has published it again"
        checks.append(Check("appendonly", "danger", "no", f"{harm}: CONFIG SET appendonly yes, and in redis.conf"))
    elif info.get("aof_last_write_status", "ok") != "ok":
        checks.append(Check("appendonly", "danger", "writing it failed", "look at Redis' log and disk"))
    else:
        checks.append(Check("appendonly", "ok", "yes"))
    return checks


def _eviction(info: dict[str, str]) -> Check:
    """Streams have no expiry, so that only the `allkeys` policies take them."""
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Check("maxmemory-policy", "unknown", "Redis does not say")
    if policy.startswith("allkeys"):
        advice = "Redis throws whole streams away when its memory is full: CONFIG SET maxmemory-policy noeviction"
        return Check("maxmemory-policy", "danger", policy, f"{advice}, and in redis.conf")
    return Check("maxmemory-policy", "ok", policy)
