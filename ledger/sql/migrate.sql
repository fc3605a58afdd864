-- name: server
select current_setting('server_version_num')::int, current_setting('server_encoding');

-- name: wait_forever
set lock_timeout = 0;

-- name: lock
-- One migrator at a time in this database; the number is arbitrary and ours.
select pg_advisory_lock(7101830125);

-- name: present
select to_regclass('ledger.migrations') is not null;

-- name: applied
select file, sha256 from ledger.migrations order by file;

-- name: record
insert into ledger.migrations (file, sha256) values (%s, %s);
