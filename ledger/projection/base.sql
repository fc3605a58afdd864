-- name: lock_name
select pg_advisory_xact_lock(hashtextextended('auditledger projection ' || %s, 0));

-- name: lock_rebuild
-- In a transaction of its own (store/locks.py), which lasts as long as the rebuild.
select pg_advisory_xact_lock(ledger.rebuild_lock(%s));

-- name: begin_rebuild
select ledger.begin_rebuild(%s);

-- name: drop_rebuild
select ledger.drop_rebuild(%s);

-- name: clear_rebuilds
-- What rebuilds left behind that were killed.
select ledger.clear_rebuilds();

-- name: lock_work
-- Read views belong to ledger_projector: whoever has more rights than that runs nothing that it may have put there.
select ledger.lock_work(%s, %s);

-- name: lock_plain
-- Nothing that somebody put into a read view is run by who reads it.
select ledger.lock_plain(variadic %s), set_config('search_path', 'pg_catalog, pg_temp', true);

-- name: set_path
-- A view may think for longer between two statements than an append, before it is taken for one whose process fell
-- silent. 8 s is what drivers/connections.py asks for; a user's own setting stays.
select
    -- Postgres' own come first, unsaid; a table of the session's own, last.
    set_config('search_path', quote_ident(%s) || ', pg_temp', true),
    set_config(
        'idle_in_transaction_session_timeout',
        regexp_replace(current_setting('idle_in_transaction_session_timeout'), '^8s$', '20s'),
        true
    );

-- name: as_projector
-- Read views belong to the group, so that any of its members can fill, rebuild and drop them.
set local role ledger_projector;

-- name: protect
-- Readers see the rows of their ledgers only.
select ledger.protect_view(%s, %s);

-- name: known
select 1 from ledger.projections where name = %s and not building limit 1;

-- name: add_checkpoints
insert into ledger.projections (ledger_id, name, building, version)
select ledger_id, %s, %s, %s from unnest(%s::int[]) as ledger_id
on conflict do nothing;

-- name: checkpoints
-- A time that no datetime can hold, which somebody wrote there by hand, is no reason not to look at the others.
select
    ledger_id, name, version, epoch, position, hash,
    greatest(least(recorded_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00'), failed_position
from ledger.projections where name = %s and building = %s;

-- name: lock_checkpoints
-- Two workers of the same projection take turns here; the second finds the checkpoint moved.
select
    name, version, epoch, position, hash,
    greatest(least(recorded_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
from ledger.projections where ledger_id = %s and name = any(%s) and building = %s
order by name for update;

-- name: move_checkpoint
-- Past an entry that could not be applied, at which it was blocked.
update ledger.projections
set
    epoch = %s, position = %s, hash = %s, recorded_at = %s, updated_at = now(),
    failed_position = null, failed_error = null, failing_since = null, failed_tries = null
where ledger_id = %s and name = %s and building = %s;

-- name: lock_all_checkpoints
select from ledger.projections where name = %s order by ledger_id, building for update;

-- name: short_lock_timeout
-- Readers queue behind a waiting swap: give up soon and try again rather than hold them up. But wait for longer than
-- deadlock_timeout (1s), after which Postgres cancels an autovacuum that is in the way.
set local lock_timeout = '1500ms';

-- name: swap_in
select ledger.swap_in(%s, %s);

-- name: drop_live_checkpoints
delete from ledger.projections where name = %s and not building;

-- name: raise_checkpoints
update ledger.projections set building = false where name = %s and building;


-- name: entry
select {as_entry}
from ledger.audit_logs
where ledger_id = %s and position = %s;

-- name: about
select {as_entry}
from ledger.audit_logs
where ledger_id = %s and resource_type = %s and resource_id = %s and position > %s and position <= %s
order by position limit %s;
