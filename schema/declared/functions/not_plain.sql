-- Postgres runs a view's and a policy's functions, and those of casts, indexes and constraints, with the rights of
-- whoever reads; and SET ROLE does not help against them, as they can RESET ROLE. So read views are read and filled only
-- where they run nothing but what superusers or ledger_owner own, which is all that Postgres brings. Returns what else
-- stands there; NULL for a plain table.
create function ledger.not_plain(variadic targets regclass[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        with parts (target, class, object) as (
            select oid, 'pg_class'::regclass, oid from pg_class where oid = any (targets)
            union all
            select indrelid, 'pg_class'::regclass, indexrelid from pg_index where indrelid = any (targets)
            union all
            select conrelid, 'pg_constraint'::regclass, oid from pg_constraint where conrelid = any (targets)
            union all
            select adrelid, 'pg_attrdef'::regclass, oid from pg_attrdef where adrelid = any (targets)
            union all
            select tgrelid, 'pg_trigger'::regclass, oid from pg_trigger where tgrelid = any (targets)
            union all
            select stxrelid, 'pg_statistic_ext'::regclass, oid from pg_statistic_ext where stxrelid = any (targets)
        ),
        -- What is Postgres' own from the beginning is not among the dependencies.
        used (target, object, what, owner) as (
            select parts.target, refobjid,
                case refclassid
                    when 'pg_proc'::regclass then 'function ' || refobjid::regprocedure
                    when 'pg_type'::regclass then 'type ' || refobjid::regtype
                    else 'operator ' || refobjid::regoperator
                end,
                case refclassid
                    when 'pg_proc'::regclass then (select proowner from pg_proc where oid = refobjid)
                    when 'pg_type'::regclass then (select typowner from pg_type where oid = refobjid)
                    else (select oprowner from pg_operator where oid = refobjid)
                end
            from parts cross join lateral (
                -- OFFSET: by the index, whatever the planner knows of these catalogs.
                select refclassid, refobjid from pg_depend where classid = parts.class and objid = parts.object offset 0
            ) as depend
            where refclassid in ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass)
        ),
        expressions (target, tree) as (
            select adrelid, adbin::text from pg_attrdef where adrelid = any (targets)
            union all
            select conrelid, conbin::text from pg_constraint where conrelid = any (targets)
            union all
            select tgrelid, tgqual::text from pg_trigger where tgrelid = any (targets)
        ),
        problems (target, problem) as (
            select oid, case
                when relkind <> 'r' then 'it is no table'
                when relhasrules then 'it has rules'
                when relispartition or exists (select from pg_inherits where inhparent = class.oid or inhrelid = class.oid)
                    then 'it shares rows with another table'
                when exists (select from pg_constraint where confrelid = class.oid and conrelid <> class.oid)
                    then 'another table refers to it'
            end
            from pg_class as class where oid = any (targets)
            union all
            select polrelid, format('its policy %s is not the ledger''s', polname)
            from pg_policy
            where polrelid = any (targets) and (
                polname <> 'readable' or polcmd <> 'r' or polwithcheck is not null
                or regexp_replace(pg_get_expr(polqual, polrelid), '[[:space:]]+', ' ', 'g')
                    <> '(ledger_id = ANY (ARRAY( SELECT readable.ledger_id FROM ledger.readable)))'
            )
            union all
            select target, 'it uses ' || what
            from used where not exists (select from pg_roles where oid = owner and (rolsuper or rolname = 'ledger_owner'))
            union all
            -- Some of Postgres' own functions run SQL that they are given as a text; they are all volatile.
            select target, format('it uses function %s', proc.oid::regprocedure)
            from expressions
            cross join regexp_matches(tree, ':funcid ([0-9]+)', 'g') as named (ids)
            join pg_proc as proc on proc.oid = named.ids[1]::oid
            where proc.provolatile = 'v'
                and proc.proname not in ('nextval', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'clock_timestamp', 'random')
        )
        select format('%s: %s', target::regclass, problem) from problems where problem is not null limit 1
    );
end
$$;

grant execute on function ledger.not_plain to ledger_reader, ledger_projector;
