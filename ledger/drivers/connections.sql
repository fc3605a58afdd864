-- What we ask of Postgres for a statement, a transaction or a connection, never for longer than a transaction: between
-- two of them a pooler may give the session to somebody else. docs/operations.md, "Settings", says who wins.

-- name: look
-- Of a new connection: is its session the server's own, and does it have settings under which our statements mean
-- something else?
select
    pg_backend_pid(),
    current_setting('row_security') = 'off'
    or current_setting('standard_conforming_strings') = 'off'
    or current_setting('transform_null_equals') = 'on'
    or current_setting('quote_all_identifiers') = 'on'
    or current_setting('array_nulls') = 'off'
    or current_setting('session_replication_role') <> 'origin'
    or current_setting('default_transaction_isolation') <> 'read committed'
    or current_setting('default_transaction_read_only') = 'on',
    current_setting('default_transaction_read_only') = 'on' and not pg_is_in_recovery();

-- name: transaction
-- Of each transaction of ours. How long it waits for a lock is ours to say; a commit of ours is durable. How long it may
-- be silent is for the role, the database or the URL to say where they do; else 8 s, which is less than those wait who
-- want what it holds. The rest tells Postgres' kernel to notice within some ten seconds that the other side is gone.
select
    set_config('lock_timeout', %s, true),
    set_config(
        'synchronous_commit',
        case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end,
        true
    ),
    set_config(
        'idle_in_transaction_session_timeout',
        case current_setting('idle_in_transaction_session_timeout')
            when '0' then '8s' else current_setting('idle_in_transaction_session_timeout')
        end,
        true
    ),
    set_config('TimeZone', 'UTC', true),
    set_config('tcp_user_timeout', '10s', true),
    set_config('tcp_keepalives_idle', '5', true),
    set_config('tcp_keepalives_interval', '2', true),
    set_config('tcp_keepalives_count', '3', true);

-- name: meaning
-- In each transaction of a connection whose role or database has other settings, or whose session may be anybody's.
select
    set_config('row_security', 'on', true),
    set_config('standard_conforming_strings', 'on', true),
    set_config('transform_null_equals', 'off', true),
    set_config('quote_all_identifiers', 'off', true),
    set_config('array_nulls', 'on', true);
