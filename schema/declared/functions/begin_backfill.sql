-- How far the backfill of a table is, locked until the transaction ends. key: the names that its columns have now.
create function ledger.begin_backfill(relation regclass) returns table (capture_id int, key text[], backfilled text[], ended boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    policy ledger.captures;
begin
    select * into policy from ledger.captures as known where known.relation = $1 for update;
    if not found then
        raise exception '% is not captured', relation using errcode = 'LE013';
    end if;
    return query select policy.capture_id, array(
        select captured.name::text from ledger.captured_columns(policy, policy.relation) as captured
        where captured.place is not null order by captured.place
    ), policy.backfilled, policy.backfill_ended;
end
$$;

grant execute on function ledger.begin_backfill to ledger_admin;
