-- Sessions that stand in the middle of a pipeline or a COPY, and wait for what their process does not send.

-- name: silent_sessions
select session.pid, session.query_start, coalesce(copy.bytes_processed, 0)
from pg_stat_activity as session left join pg_stat_progress_copy as copy using (pid)
where session.datname = current_database() and session.usename = current_user
    -- Ours have the name that the URL or PGAPPNAME gives them, as others of this user may.
    and session.application_name = current_setting('application_name')
    and (session.application_name = 'auditledger' or session.query ~ '\mledger\.')
    and session.state = 'active' and session.wait_event = 'ClientRead'
    and session.query_start < clock_timestamp() - interval '5 s';

-- name: end_sessions
-- Those of before that have not come on since.
select pg_terminate_backend(session.pid)
from unnest(%s::int[], %s::timestamptz[], %s::bigint[]) as seen (pid, query_start, taken)
join pg_stat_activity as session using (pid, query_start)
left join pg_stat_progress_copy as copy using (pid)
where session.usename = current_user and session.state = 'active' and session.wait_event = 'ClientRead'
    and coalesce(copy.bytes_processed, 0) = seen.taken;
