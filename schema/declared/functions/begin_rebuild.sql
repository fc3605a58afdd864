-- An empty schema for a rebuild, which belongs to ledger_projector.
create function ledger.begin_rebuild(name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    given oid;
begin
    perform ledger.drop_rebuild(name);
    execute format('create schema %I authorization ledger_projector', 'ledger_rebuild_' || name);
    for given in
        select distinct acl.grantee from pg_namespace, aclexplode(nspacl) as acl
        where nspname = 'ledger_rebuild_' || $1 and acl.grantee <> nspowner
    loop
        execute format('revoke all on schema %I from %s', 'ledger_rebuild_' || name,
            case given when 0 then 'public' else given::regrole::text end);
    end loop;
end
$$;

grant execute on function ledger.begin_rebuild to ledger_projector;
