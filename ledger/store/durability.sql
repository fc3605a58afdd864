-- The barrier: docs/decisions/0014-durable-before-shown.md.

-- name: flush
-- Writes WAL, so that the commit of this transaction returns once all WAL before it is durable, as its synchronous_commit
-- has it ('off' counts as 'on', as in drivers/connections.sql). Nothing on a standby, which shows only what is durable.
select pg_logical_emit_message(true, 'auditledger', '') is not null
where not pg_is_in_recovery() and (
    current_setting('synchronous_commit') <> 'off' or set_config('synchronous_commit', 'on', true) is not null
);

-- name: flush_tails
-- The same, and the tails of some ledgers as they were before it.
with flushed as materialized (
    select pg_logical_emit_message(true, 'auditledger', '')
    where not pg_is_in_recovery() and (
        current_setting('synchronous_commit') <> 'off' or set_config('synchronous_commit', 'on', true) is not null
    )
)
select ledger_id, position, hash, recorded_at
from ledger.tails where ledger_id = any(%s) and (select count(*) from flushed) >= 0;

-- name: hash_at
-- Of the entry at the end of a range of one position: by the index of positions, whatever Postgres knows of the table.
select hash from ledger.entries where ledger_id = %s and position > %s and position <= %s order by position limit 1;

-- name: commit_unflushed
-- Whoever waits for the tail need not wait for the flush; what this transaction recorded is promised behind a flush only.
set local synchronous_commit = off;
