-- name: find_ledger
select ledger_id, name from ledger.ledgers where name = %s;

-- name: all_ledgers
select ledger_id, name from ledger.ledgers order by ledger_id;

-- name: create_ledger
select ledger.create_ledger(%s);

-- name: tail
select position, hash, recorded_at from ledger.tails where ledger_id = %s;

-- name: queue
-- Before `lock_tail`: those who wait for a tail stand in line for it, in the order in which they came. For the row itself
-- whoever is quickest gets it. The first number is arbitrary and ours.
select pg_advisory_xact_lock(710183014, %s);

-- name: queue_in_time
-- What is left of the limit is the next statement's.
select
    pg_advisory_xact_lock(710183014, %s),
    set_config(
        'statement_timeout',
        greatest(1, ceil(%s - 1000 * extract(epoch from clock_timestamp() - statement_timestamp())))::bigint::text,
        true
    );

-- name: lock_tail
-- An UPDATE, not SELECT FOR UPDATE: whoever holds this row until COMMIT is the only writer of the ledger. Not of another
-- value: any writer could set one that overflows.
update ledger.tails set fence = fence where ledger_id = %s
returning position, hash, recorded_at, clock_timestamp();

-- name: tail_holder
-- The backend that holds a tail: the xmax of a locked row is the transaction that locked it (ops/status.sql says more).
select held.pid
from ledger.tails as tail
join pg_locks as held on held.granted and held.locktype = 'transactionid' and held.transactionid = tail.xmax
where tail.ledger_id = %s;

-- name: limit_wait
-- How long the next statement may take, in ms. A role or database may have a limit of its own, which comes back after it.
select
    set_config('ledger.own_limit', current_setting('statement_timeout'), true),
    set_config('statement_timeout', %s, true);

-- name: lock_tail_in_time
update ledger.tails set fence = fence where ledger_id = %s
returning
    position, hash, recorded_at, clock_timestamp(),
    set_config('statement_timeout', current_setting('ledger.own_limit'), true);

-- name: insert
-- A writer may not read the table, so it gets back what this very statement was given, for the row that it inserted.
insert into ledger.audit_logs (ledger_id, {columns}) values ({row})
returning %s::bigint, %s::uuid, %s::bytea;

-- name: insert_alone
-- The same in a transaction of its own. The condition is asked first, once, and sets what drivers/connections.sql does in others.
insert into ledger.audit_logs (ledger_id, {columns})
select {typed_row}
where set_config('lock_timeout', %s, true) is not null
    and (
        current_setting('synchronous_commit') <> 'off' or set_config('synchronous_commit', 'on', true) is not null
    )
returning %s::bigint, %s::uuid, %s::bytea;

-- name: insert_after
-- Locks the tail, and where it is the one that the entry was made for, records the entry in the same round trip; but not
-- one that came too late for the trigger, which would end the caller's transaction. A row lock is enough here, because
-- the trigger updates the row, if not now then in the second round trip; it saves writing the row twice.
with entry (ledger_id, {columns}) as (
    values ({typed_row})
), tail as (
    select position, hash, recorded_at from ledger.tails where ledger_id = (select ledger_id from entry) for no key update
), added as (
    insert into ledger.audit_logs (ledger_id, {columns})
    select entry.* from entry, tail
    where entry.position = tail.position + 1 and entry.prev_hash = tail.hash and entry.recorded_at >= tail.recorded_at
        and entry.recorded_at > statement_timestamp() - interval '4 seconds'
    returning 1
)
select tail.position, tail.hash, tail.recorded_at, clock_timestamp(), entry.position, entry.id, entry.hash
from tail left join entry on exists (select from added);

-- name: copy_alone
-- Before `copy`, in a transaction of its own: what drivers/connections.sql sets in others.
select
    set_config('lock_timeout', '{lock_timeout}', true),
    set_config(
        'synchronous_commit',
        case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end,
        true
    ),
    set_config('tcp_keepalives_idle', '5', true),
    set_config('tcp_keepalives_interval', '2', true),
    set_config('tcp_keepalives_count', '3', true);

-- name: copy
-- The tail is the last of these entries until this transaction ends, whoever else appends.
copy ledger.audit_logs (ledger_id, {columns}) from stdin (format binary);
select position, encode(hash, 'hex') from ledger.tails where ledger_id = {ledger_id};

-- What an appender asks of entries that its role may not read.

-- name: changed
select ledger.changed(%s, %s, %s, %s);

-- name: recorded
select
    position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id, hash, erased
from ledger.recorded(%s, %s);

-- name: first_difference
select ledger.first_difference(%s, %s, %s, %s, %s);

-- name: differing
-- All of them, for who may read bodies.
select said.number
from unnest(%s::uuid[], %s::text[], %s::text[], %s::text[]) with ordinality as said (id, before, after, metadata, number)
join ledger.audit_logs as entry on entry.id = said.id
where entry.ledger_id = %s and entry.salt is not null
    and (entry.before::text, entry.after::text, entry.metadata::text) is distinct from (said.before, said.after, said.metadata);

-- name: read
select {as_entry}
from ledger.entries where ledger_id = %s and position > %s and position <= %s order by position limit %s;

-- name: copy_entries
copy (
    select {columns}
    from ledger.entries where ledger_id = {ledger_id} and position > {after} and position <= {last}
    order by position limit {limit}
) to stdout (format binary);

-- name: tails
select ledger_id, epoch, position from ledger.tails where ledger_id = any(%s);

-- name: all_tails
-- The relay's wake-up: one small query for all ledgers.
select tail.ledger_id, ledger.name, tail.epoch, tail.position
from ledger.tails as tail join ledger.ledgers as ledger using (ledger_id) order by tail.ledger_id;

-- name: hash_at
select hash from ledger.entries where ledger_id = %s and position = %s;

-- name: hashes
select position, hash from ledger.entries where ledger_id = %s and position = any(%s);

-- name: open_epoch
select ledger.open_epoch(%s);

-- name: slowest_reader
-- Trimming never passes what a projection or a consumer group has still to see. But for one that is blocked, or whose
-- worker was not seen for a week, a stream would grow for ever: once it goes on, it reads from Postgres.
select least(
    (
        select min(position) from ledger.projections
        where ledger_id = %s and not building and failed_position is null and updated_at > now() - interval '7 days'
    ),
    (select min(position) from ledger.subscriptions where ledger_id = %s and updated_at > now() - interval '7 days')
);

-- name: subscribe
-- Where the group stands: where it had come to, or `after` where it is new.
with added as (
    insert into ledger.subscriptions (ledger_id, name, position) values (%s, %s, %s)
    on conflict (ledger_id, name) do update set updated_at = now()
    returning position
)
select added.position, tail.epoch from added, ledger.tails as tail where tail.ledger_id = %s;

-- name: subscription
select position from ledger.subscriptions where ledger_id = %s and name = %s;

-- name: whole_between
-- Is there an entry between two positions that was not erased?
select exists (select from ledger.audit_logs where ledger_id = %s and position > %s and position < %s and salt is not null);

-- name: subscriptions
select name, position from ledger.subscriptions where ledger_id = %s order by name;

-- name: set_subscription
insert into ledger.subscriptions (ledger_id, name, position) values (%s, %s, %s)
on conflict (ledger_id, name) do update set position = excluded.position, updated_at = now();

-- name: delete_subscription
delete from ledger.subscriptions where ledger_id = %s and name = %s;

-- name: save_subscription
-- Only where the stream's epoch and hash are the ledger's: it may be ahead of a database that was set back.
update ledger.subscriptions as kept set position = greatest(kept.position, %s), updated_at = now()
from ledger.tails as tail, ledger.entries as entry
where kept.ledger_id = %s and kept.name = %s
    and tail.ledger_id = kept.ledger_id and tail.epoch = %s
    and entry.ledger_id = kept.ledger_id and entry.position = %s and entry.hash = %s;

-- name: let_rebuild
-- A rebuild has a schema of its own, which ledger_owner makes. Copies of a database lack its privileges, so this is seen
-- to at each migration, by whoever may. The workers made it themselves until 0010, and could make others.
set local search_path = pg_catalog, pg_temp;
do $$
declare
    given name;
begin
    if not has_database_privilege('ledger_owner', current_database(), 'create') then
        execute format('grant create on database %I to ledger_owner', current_database());
    end if;
    for given in
        select grantor.rolname
        from pg_database as database cross join lateral aclexplode(database.datacl) as acl
        join pg_roles as grantor on grantor.oid = acl.grantor
        where database.datname = current_database()
            and acl.grantee = 'ledger_projector'::regrole and acl.privilege_type = 'CREATE'
    loop
        if given <> current_user then
            execute format('set local role %I', given);
        end if;
        execute format('revoke create on database %I from ledger_projector', current_database());
        reset role;
    end loop;
exception when insufficient_privilege or internal_error then  -- or another grants the same at this moment
    reset role;
end
$$;
