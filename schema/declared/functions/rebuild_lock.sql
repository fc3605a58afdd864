-- The number of the lock that a rebuild's own transaction holds for as long as the rebuild takes.
create function ledger.rebuild_lock(name text) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return hashtextextended('auditledger rebuild ' || name, 0);
end
$$;

grant execute on function ledger.rebuild_lock to ledger_projector;
