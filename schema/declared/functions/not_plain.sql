-- Postgres runs a view's and a policy's functions, and those of casts, indexes and constraints, with the rights of
-- whoever reads; and SET ROLE does not help against them, as they can RESET ROLE. So read views are read and filled only
-- where they run nothing but what superusers or ledger_owner own, which is all that Postgres brings. Returns what else
-- stands there; NULL for a plain table.
create function ledger.not_plain(target regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    problem text;
    trusted constant oid[] := array(select oid from pg_roles where rolsuper or rolname = 'ledger_owner');
begin
    select case
        when relkind <> 'r' then 'it is no table'
        when relhasrules then 'it has rules'
        when relispartition or exists (select from pg_inherits where inhparent = target or inhrelid = target) then
            'it shares rows with another table'
        when exists (select from pg_constraint where confrelid = target and conrelid <> target) then
            'another table refers to it'
    end into problem
    from pg_class where oid = target;
    if problem is not null then
        return problem;
    end if;
    select format('its policy %s is not the ledger''s', polname) into problem
    from pg_policy
    where polrelid = target and (
        polname <> 'readable' or polcmd <> 'r' or polwithcheck is not null
        or regexp_replace(pg_get_expr(polqual, polrelid), '[[:space:]]+', ' ', 'g')
            <> '(ledger_id = ANY (ARRAY( SELECT readable.ledger_id FROM ledger.readable)))'
    );
    if problem is not null then
        return problem;
    end if;
    with parts (class, object) as (
        select 'pg_class'::regclass, target::oid
        union all
        select 'pg_class'::regclass, indexrelid from pg_index where indrelid = target
        union all
        select 'pg_constraint'::regclass, oid from pg_constraint where conrelid = target
        union all
        select 'pg_attrdef'::regclass, oid from pg_attrdef where adrelid = target
        union all
        select 'pg_trigger'::regclass, oid from pg_trigger where tgrelid = target
        union all
        select 'pg_statistic_ext'::regclass, oid from pg_statistic_ext where stxrelid = target
    ),
    -- What is Postgres' own from the beginning is not among the dependencies.
    used (class, object) as (
        select refclassid, refobjid from pg_depend join parts on classid = class and objid = object
    ),
    foreigners (what) as (
        select 'function ' || oid::regprocedure from pg_proc
        where oid in (select object from used where class = 'pg_proc'::regclass) and proowner <> all (trusted)
        union all
        select 'type ' || oid::regtype from pg_type
        where oid in (select object from used where class = 'pg_type'::regclass) and typowner <> all (trusted)
        union all
        select 'operator ' || oid::regoperator from pg_operator
        where oid in (select object from used where class = 'pg_operator'::regclass) and oprowner <> all (trusted)
    )
    select format('it uses %s', what) into problem from foreigners limit 1;
    if problem is not null then
        return problem;
    end if;
    -- Some of Postgres' own functions run SQL that they are given as a text; none of those is immutable or stable.
    with expressions (tree) as (
        select adbin::text from pg_attrdef where adrelid = target
        union all
        select conbin::text from pg_constraint where conrelid = target
        union all
        select tgqual::text from pg_trigger where tgrelid = target
    )
    select format('it uses function %s', proc.oid::regprocedure) into problem
    from expressions
    cross join regexp_matches(tree, ':funcid ([0-9]+)', 'g') as named (ids)
    join pg_proc as proc on proc.oid = named.ids[1]::oid
    where proc.provolatile = 'v' and proc.proname not in ('nextval', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'clock_timestamp', 'random')
    limit 1;
    return problem;
end
$$;

grant execute on function ledger.not_plain to ledger_reader, ledger_projector;
