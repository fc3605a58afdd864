-- Whoever applies entries holds this row too: an entry is applied or skipped, never both. To be taken before the tail,
-- so that no append waits for a batch that is being applied.
create function ledger.lock_projection(ledger_id int, name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform from ledger.projections as projection
    where projection.ledger_id = $1 and projection.name = $2 order by building for update;
end
$$;

grant execute on function ledger.lock_projection to ledger_projector, ledger_admin;
