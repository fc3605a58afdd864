-- Records that the capture of a table begins, changes or ends.
create function ledger.note_capture(action text, ledger_id int, relation regclass, old ledger.captures, new ledger.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    context constant jsonb := nullif(current_setting('ledger.context', true), '');
    actor constant text := left(nullif(context ->> 'actor', ''), 255);
begin
    insert into ledger.outbox (
        ledger_id, id, named, recorded_at, actor, actor_type, action, resource_type, resource_id, before, after, metadata
    ) values (
        ledger_id, ledger.new_id(), false, clock_timestamp(), coalesce(actor, 'db:' || session_user),
        case when actor is null then 'database' else left(coalesce(nullif(context ->> 'actor_type', ''), 'user'), 64) end,
        action, 'capture', left(relation::text, 255), ledger.capture_policy(old), ledger.capture_policy(new),
        json_build_object('via', 'database', 'tx', pg_current_xact_id()::text)
    );
end
$$;
