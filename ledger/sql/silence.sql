-- Sessions that wait for rows which their process does not send.

-- name: waiting_copies
select pid, copy.bytes_processed
from pg_stat_progress_copy as copy join pg_stat_activity as session using (pid)
where session.datname = current_database() and session.usename = current_user
    and session.application_name = 'auditledger'
    and session.wait_event = 'ClientRead' and session.query_start < clock_timestamp() - interval '5 s';

-- name: end_copies
-- Those of before that have not taken a byte since.
select pg_terminate_backend(pid)
from unnest(%s::int[], %s::bigint[]) as seen (pid, bytes_processed)
join pg_stat_progress_copy as copy using (pid, bytes_processed)
join pg_stat_activity as session using (pid)
where session.usename = current_user and session.wait_event = 'ClientRead';
