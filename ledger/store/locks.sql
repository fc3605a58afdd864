-- name: hold_on
-- A transaction that holds a lock may last for as long as it says that it is alive.
select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout';

-- name: wait_briefly
set local lock_timeout = '1500ms';

-- name: still_there
select 1;
