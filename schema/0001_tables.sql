-- The store. Every key begins with ledger_id, so that a ledger is the unit that can move to another node.

create schema ledger;
comment on schema ledger is 'auditledger: append-only, hash-chained audit entries. Do not write here by hand.';

create table ledger.migrations (
    file text primary key,
    sha256 text not null,
    applied_at timestamptz not null default now()
);
comment on table ledger.migrations is 'What has been applied; compared with schema/journal.json before anything else is done.';

create table ledger.ledgers (
    ledger_id int generated always as identity primary key,
    name text not null constraint one_ledger_per_name unique
        constraint ledger_name_format check (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    created_at timestamptz not null default now()
);

-- One row a ledger, rewritten by every append: half-empty pages keep those rewrites in the page (HOT).
create table ledger.tails (
    ledger_id int primary key,
    epoch int not null default 1,
    position bigint not null default 0,
    hash bytea not null default decode(repeat('00', 32), 'hex'),
    recorded_at timestamptz not null default now(),
    fence bigint not null default 0
) with (fillfactor = 50);
comment on table ledger.tails is 'The newest entry of each ledger. Only the trigger on audit_logs moves it.';
comment on column ledger.tails.fence is 'Means nothing: a writer locks the tail by updating it.';
comment on column ledger.tails.epoch is 'The first half of stream ids; grows when the stream had run ahead of a restored database.';

-- format.md has the bytes. before, after and metadata are json, not jsonb: their exact text is hashed.
create table ledger.audit_logs (
    ledger_id int not null,
    position bigint not null,
    id uuid not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz not null,
    actor text not null,
    actor_type text not null,
    action text not null,
    resource_type text,
    resource_id text,
    before json,
    after json,
    metadata json,
    salt bytea,
    body_hash bytea not null,
    prev_hash bytea not null,
    hash bytea not null,
    constraint one_entry_per_position primary key (ledger_id, position),
    constraint one_entry_per_id unique (ledger_id, id),
    constraint entry_format check (
        position >= 1
        and octet_length(hash) = 32 and octet_length(prev_hash) = 32 and octet_length(body_hash) = 32
        and (resource_type is null) = (resource_id is null)
        -- A salt, or (erased) neither salt nor texts.
        and coalesce(octet_length(salt), 16 + num_nonnulls(before, after, metadata)) = 16
    )
);
create index audit_logs_by_actor on ledger.audit_logs (ledger_id, actor, position);
create index audit_logs_by_resource on ledger.audit_logs (ledger_id, resource_type, resource_id, position);
create index audit_logs_by_time on ledger.audit_logs (ledger_id, recorded_at);

-- For auditors with nothing but SQL: the bytes whose BLAKE3 is the hash.
create view ledger.envelopes as
select
    entry.ledger_id,
    entry.position,
    '{"action":' || to_json(entry.action)::text
    || ',"actor":' || to_json(entry.actor)::text
    || ',"actor_type":' || to_json(entry.actor_type)::text
    || ',"body":"' || encode(entry.body_hash, 'hex')
    || '","id":"' || entry.id::text
    || '","ledger":"' || ledger.name
    || '","occurred_at":"' || to_char(entry.occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","position":' || entry.position::text
    || ',"prev":"' || encode(entry.prev_hash, 'hex')
    || '","recorded_at":"' || to_char(entry.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","resource_id":' || coalesce(to_json(entry.resource_id)::text, 'null')
    || ',"resource_type":' || coalesce(to_json(entry.resource_type)::text, 'null')
    || ',"v":1}' as envelope,
    entry.hash
from ledger.audit_logs as entry
join ledger.ledgers as ledger using (ledger_id);

create function ledger.create_ledger(ledger_name text) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    new_id int;
begin
    insert into ledger.ledgers (name) values (ledger_name)
    on conflict on constraint one_ledger_per_name do nothing
    returning ledger_id into new_id;
    if new_id is not null then
        insert into ledger.tails (ledger_id) values (new_id);
    end if;
    return new_id;
end
$$;
comment on function ledger.create_ledger is 'The new ledger''s id, or null where the name is taken.';
