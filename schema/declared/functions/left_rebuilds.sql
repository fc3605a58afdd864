-- The projections of which a rebuild was given up or killed, and left its tables behind, with bodies that no erasure
-- reaches any more.
create function ledger.left_rebuilds() returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select rebuild.name
    from (
        select substr(nspname::text, 16) from pg_namespace where nspname ^@ 'ledger_rebuild_'
        union
        select projection.name from ledger.projections as projection where projection.building
    ) as rebuild (name)
    where not exists (
        select from pg_locks
        where locktype = 'advisory' and granted and objsubid = 1
            and database = (select oid from pg_database where datname = current_database())
            and classid::bigint << 32 | objid::bigint = ledger.rebuild_lock(rebuild.name)
    )
    order by rebuild.name;
end
$$;

grant execute on function ledger.left_rebuilds to ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
