create function ledger.drop_rebuild(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if name !~ '^[a-z][a-z0-9_]*$' then
        raise exception 'not the name of a projection: %', name using errcode = 'LE002';
    end if;
    execute format('drop schema if exists %I cascade', 'ledger_rebuild_' || name);
    delete from ledger.projections as projection where projection.name = $1 and projection.building;
end
$$;

grant execute on function ledger.drop_rebuild to ledger_projector;
