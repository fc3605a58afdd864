-- The last step of a rebuild: the new tables take the old ones' place and grants, in the caller's transaction.
create function ledger.swap_in(building_schema text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
    granted record;
begin
    -- Without statistics the first queries on the new tables would be planned blindly.
    foreach name in array tables loop
        execute format('analyze %I.%I', building_schema, name);
    end loop;
    foreach name in array tables loop
        for granted in
            select acl.privilege_type, acl.grantee, acl.is_grantable
            from pg_class as class, aclexplode(class.relacl) as acl
            where class.oid = to_regclass(format('ledger_views.%I', name)) and acl.grantee <> class.relowner
        loop
            execute format(
                'grant %s on %I.%I to %s%s', granted.privilege_type, building_schema, name,
                case granted.grantee when 0 then 'public' else granted.grantee::regrole::text end,
                case when granted.is_grantable then ' with grant option' else '' end
            );
        end loop;
        execute format('drop table if exists ledger_views.%I', name);
        execute format('alter table %I.%I set schema ledger_views', building_schema, name);
    end loop;
end
$$;

grant execute on function ledger.swap_in to ledger_projector;
