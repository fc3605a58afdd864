-- Records that the capture of a table begins, changes or ends.
create function ledger.note_capture(action text, ledger_id int, relation regclass, old ledger.captures, new ledger.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    context constant jsonb := nullif(current_setting('ledger.context', true), '');
    name text;
begin
    select known.name into name from ledger.ledgers as known where known.ledger_id = $2;
    perform ledger.record(
        name, actor => coalesce(nullif(context ->> 'actor', ''), 'db:' || session_user),
        actor_type => case when nullif(context ->> 'actor', '') is null then 'database' else context ->> 'actor_type' end,
        action => action, resource_type => 'capture', resource_id => left(relation::text, 255),
        before => ledger.capture_policy(old), after => ledger.capture_policy(new),
        metadata => json_build_object('tx', pg_current_xact_id()::text)
    );
end
$$;
