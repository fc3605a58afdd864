create function ledger.capture_list() returns table (relation text, ledger text, policy json, backfilled boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select capture.relation::text, known.name, ledger.capture_policy(capture), capture.backfill_ended
    from ledger.captures as capture join ledger.ledgers as known using (ledger_id) order by capture.relation::text;
end
$$;

grant execute on function ledger.capture_list to ledger_admin;
