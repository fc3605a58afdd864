-- The tables of a view that was just made: rows of readers' ledgers for readers, and nothing that default privileges gave.
create function ledger.protect_view(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regclass;
    given record;
begin
    for given in
        with made (oid) as (
            select to_regclass(format('%I.%I', schema_name, name))::oid from unnest(tables) as name
        )
        select class.oid::regclass as name, class.relkind, acl.grantee
        from pg_class as class cross join lateral aclexplode(class.relacl) as acl
        where acl.grantee <> class.relowner and (
            class.oid in (select oid from made)
            or class.relkind = 'S' and exists (
                select from pg_depend
                where classid = 'pg_class'::regclass and objid = class.oid
                    and refclassid = 'pg_class'::regclass and refobjid in (select oid from made)
            )
        )
        group by 1, 2, 3
    loop
        execute format('revoke all on %s %s from %s', case given.relkind when 'S' then 'sequence' else 'table' end,
            given.name, case given.grantee when 0 then 'public' else given.grantee::regrole::text end);
    end loop;
    for target in
        select attrelid::regclass from pg_attribute
        where attrelid = any (select to_regclass(format('%I.%I', schema_name, name)) from unnest(tables) as name)
            and attname = 'ledger_id' and not attisdropped
    loop
        perform ledger.restrict_readers(target);
        execute format('grant select on %s to ledger_reader', target);
    end loop;
end
$$;

grant execute on function ledger.protect_view to ledger_projector;
