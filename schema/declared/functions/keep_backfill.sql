-- Keeps how far the backfill of a table is. last: NULL to leave it; ended: NULL to begin anew.
create function ledger.keep_backfill(capture_id int, last text[], ended boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update ledger.captures as known
    set backfilled = case when $3 is null then null else coalesce($2, known.backfilled) end, backfill_ended = coalesce($3, false)
    where known.capture_id = $1;
end
$$;

grant execute on function ledger.keep_backfill to ledger_admin;
