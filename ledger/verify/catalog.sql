-- name: settings
-- How Postgres prints definitions depends on these; they hold until the transaction ends.
set local search_path = pg_catalog, pg_temp;
set local quote_all_identifiers = off;
set local standard_conforming_strings = on;
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local bytea_output = 'hex';
set local extra_float_digits = 1;
set local jit = off;

-- name: facts
-- What the schema `ledger` contains, and what of `ledger_views` is not the projections': one row for each object, in
-- words that are the same in every version of Postgres. A fact that is not given is the usual one: a persistent table,
-- a valid index, a function with the rights of its caller.
with schemas (oid, name) as (
    select oid, nspname from pg_namespace where nspname in ('ledger', 'ledger_views')
),
relations as (
    select
        class.*, format('ledger.%%I', relname) as name,
        case relkind
            when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' when 'm' then 'materialized view'
            when 'f' then 'foreign table' when 'S' then 'sequence' when 'c' then 'type' else 'relation'
        end as kind
    from pg_class as class
    where relnamespace = to_regnamespace('ledger') and relkind not in ('i', 'I', 't')
),
-- Since version 16 Postgres leaves out the prefix of a view's only table. Its columns are then those without a prefix;
-- the tables within are told by what the view depends on.
views (oid, definition, needs) as (
    select
        relations.oid,
        regexp_replace(
            case when only_table[1] is null then definition
                else regexp_replace(definition, '\m' || only_table[1] || '\.', '', 'g')
            end, '\s+', ' ', 'g'
        ),
        (
            select string_agg(distinct (pg_identify_object(refclassid, refobjid, 0)).identity, ', ')
            from pg_depend as needed join pg_rewrite as rewrite on rewrite.oid = needed.objid
            where needed.classid = 'pg_rewrite'::regclass and rewrite.ev_class = relations.oid
                and (needed.refclassid, needed.refobjid) <> ('pg_class'::regclass, relations.oid)
        )
    from relations
    cross join lateral pg_get_viewdef(relations.oid) as definition
    cross join lateral (select regexp_match(definition, '\n   FROM \S+ (\w+)(?:;|\n  \w)') as only_table) as found
    where relkind in ('v', 'm')
),
routines as (
    select proc.*, oid::regprocedure::text as name from pg_proc as proc where pronamespace = to_regnamespace('ledger')
),
grants (object, owner, grantee, privilege, "column", grantable) as (
    select 'schema ' || nspname, nspowner, acl.grantee, privilege_type, null, is_grantable
    from pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) as acl
    where oid in (select oid from schemas)
    union all
    select kind || ' ' || name, relowner, acl.grantee, privilege_type, null, is_grantable
    from relations,
        aclexplode(coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))) as acl
    where relkind <> 'c'
    union all
    select kind || ' ' || name, relowner, acl.grantee, privilege_type, quote_ident(attname), is_grantable
    from relations join pg_attribute on attrelid = relations.oid, aclexplode(attacl) as acl
    where not attisdropped
    union all
    select 'function ' || name, proowner, acl.grantee, privilege_type, null, is_grantable
    from routines, aclexplode(coalesce(proacl, acldefault('f', proowner))) as acl
    union all
    select format('type ledger.%%I', typname), typowner, acl.grantee, privilege_type, null, is_grantable
    from pg_type, aclexplode(typacl) as acl
    where typnamespace = to_regnamespace('ledger')
),
-- What objects are given when they are made: by our roles, or by anybody in our schemas. Postgres' own defaults, which a
-- list of a role's includes, are no more than that; but what ledger_owner makes, everybody may not execute.
default_grants (object, grantee, privilege, grantable) as (
    select
        format(
            'new %%s of %%s%%s',
            case defaclobjtype
                when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
                when 'n' then 'schemas' else defaclobjtype::text
            end,
            pg_get_userbyid(defaclrole),
            ' in schema ' || nullif(defaclnamespace, 0)::regnamespace
        ),
        acl.grantee, privilege_type, is_grantable
    from pg_default_acl left join lateral aclexplode(defaclacl) as acl on acl.grantee <> defaclrole
        and not (
            defaclnamespace = 0 and acl.grantee = 0
            and (defaclobjtype = 'T' or defaclobjtype = 'f' and defaclrole is distinct from to_regrole('ledger_owner'))
        )
    where defaclnamespace in (select oid from schemas)
        or defaclnamespace = 0 and defaclrole in (to_regrole('ledger_owner'), to_regrole('ledger_projector'))
),
granted (object, role, privilege) as (
    select object, grantee, format('%%s%%s', privilege, ' (' || "column" || ')') || way
    from grants
    cross join lateral unnest(case when grantable then array['', ' with grant option'] else array[''] end) as way
    where grantee <> owner
    union all
    select object, grantee, privilege || way
    from default_grants
    cross join lateral unnest(case when grantable then array['', ' with grant option'] else array[''] end) as way
),
-- Those that own something or are let into the schemas.
roles (oid) as (
    select nspowner from pg_namespace where oid in (select oid from schemas)
    union
    select relowner from relations
    union
    select grantee from grants where object ^@ 'schema '
),
facts (kind, object, fact) as (
    select 'role', rolname::text, jsonb_build_object(
        'attributes', nullif(concat_ws(
            ', ',
            case when rolsuper then 'SUPERUSER' end, case when rolcanlogin then 'LOGIN' end,
            case when rolbypassrls then 'BYPASSRLS' end, case when rolreplication then 'REPLICATION' end,
            case when rolcreaterole then 'CREATEROLE' end, case when rolcreatedb then 'CREATEDB' end
        ), ''),
        'member of', (
            select string_agg(held.rolname, ', ' order by held.rolname collate "C")
            from pg_roles as held
            where held.oid <> role.oid and pg_has_role(role.oid, held.oid, 'member') and not role.rolsuper
        )
    )
    from pg_roles as role where oid in (select oid from roles)
    union all
    select 'schema', nspname::text, jsonb_build_object('owner', pg_get_userbyid(nspowner))
    from pg_namespace where oid in (select oid from schemas)
    union all
    select relations.kind, relations.name, jsonb_build_object(
        'owner', pg_get_userbyid(relowner),
        'persistence', case relpersistence when 'u' then 'UNLOGGED: a crash empties it' when 't' then 'temporary' end,
        'access method', (select nullif(amname, 'heap') from pg_am where pg_am.oid = relam),
        'replica identity', case when relkind in ('r', 'p') then nullif(relreplident, 'd') end,
        'row-level security', case when relrowsecurity then 'on' end,
        'row-level security for its owner', case when relforcerowsecurity then 'on' end,
        -- Where such a flag is off, Postgres does not look for what there is.
        'ignored', nullif(concat_ws(
            ', ',
            case when not relhastriggers and exists (select from pg_trigger where tgrelid = relations.oid) then 'triggers' end,
            case when not relhasrules and exists (select from pg_rewrite where ev_class = relations.oid) then 'rules' end,
            case when not relhasindex and exists (select from pg_index where indrelid = relations.oid) then 'indexes' end,
            case when relkind in ('r', 'p') and relchecks <> (
                select count(*) from pg_constraint where conrelid = relations.oid and contype = 'c'
            ) then 'checks' end
        ), ''),
        'options', (
            select string_agg(option, ', ' order by option) from unnest(reloptions) as option
            where relkind not in ('r', 'p') or option ^@ 'user_catalog_table'
        ),
        'parents', (
            select string_agg(inhparent::regclass::text, ', ' order by inhparent::regclass::text)
            from pg_inherits where inhrelid = relations.oid
        ),
        'definition', views.definition,
        'tables', views.needs,
        'range', (
            select concat_ws(', ', format_type(seqtypid, null), seqstart, seqincrement, seqmin, seqmax, case when seqcycle then 'cycle' end)
            from pg_sequence where seqrelid = relations.oid
        )
    )
    from relations left join views using (oid)
    union all
    select 'column', format('%%s.%%I', relations.name, attname), jsonb_build_object(
        'place', row_number() over (partition by attrelid order by attnum),
        'type', format_type(atttypid, atttypmod),
        'collation', (
            select format('%%I.%%I', collnamespace::regnamespace, collname)
            from pg_collation as named
            where named.oid = attcollation and attcollation <> typcollation
        ),
        'not null', case when attnotnull then case
            -- Since version 18 such a constraint may be one that was never checked.
            when exists (
                select from pg_constraint
                where conrelid = attrelid and contype = 'n' and conkey = array[attnum] and not convalidated
            ) then 'not valid' else 'yes'
        end end,
        'default', pg_get_expr(adbin, adrelid),
        'identity', case attidentity when 'a' then 'always' when 'd' then 'by default' end,
        'generated', nullif(attgenerated, ''),
        'storage', case when relations.relkind in ('r', 'p') then nullif(attstorage, typstorage) end,
        'inherited', nullif(attinhcount, 0)
    )
    from relations
    join pg_attribute on attrelid = relations.oid and attnum > 0 and not attisdropped
    join pg_type on pg_type.oid = atttypid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relations.relkind <> 'S'
    union all
    select 'constraint', format('%%I on %%s', conname, coalesce(relations.name, format_type(nullif(contypid, 0), null))),
        jsonb_build_object(
            'definition', regexp_replace(pg_get_constraintdef(found.oid), ' NOT VALID$', ''),
            'validated', case when not convalidated then 'no' end,
            'inherited', case when coninhcount > 0 or not conislocal then 'yes' end
        )
    from pg_constraint as found left join relations on relations.oid = conrelid
    where contype not in ('n', 't')
        and (relations.oid is not null or conrelid = 0 and found.connamespace = to_regnamespace('ledger'))
    union all
    select 'index', format('ledger.%%I', class.relname), jsonb_build_object(
        'definition', pg_get_indexdef(indexrelid),
        'valid', case when not indisvalid then 'no' end,
        'ready', case when not indisready then 'no' end,
        'live', case when not indislive then 'no' end,
        'immediate', case when not indimmediate then 'no' end
    )
    from pg_index join relations on relations.oid = indrelid join pg_class as class on class.oid = indexrelid
    union all
    select 'trigger',
        case when tgisinternal then format('of constraint %%I (%%s) on %%s', conname, tgfoid::regproc, relations.name)
            else format('%%I on %%s', tgname, relations.name) end,
        jsonb_build_object(
            'definition', case when not tgisinternal then pg_get_triggerdef(found.oid) end,
            'enabled', case tgenabled when 'O' then 'in ordinary sessions only' when 'A' then 'ALWAYS' when 'R' then 'in replicas only' when 'D' then 'never' end
        )
    from pg_trigger as found join relations on relations.oid = tgrelid
    left join pg_constraint on pg_constraint.oid = tgconstraint
    union all
    select 'rule', format('%%I on %%s', rulename, relations.name), jsonb_build_object(
        'definition', case when rulename <> '_RETURN' then pg_get_ruledef(found.oid) end,
        'enabled', case when ev_enabled <> 'O' then 'not as usual' end
    )
    from pg_rewrite as found join relations on relations.oid = ev_class
    where rulename <> '_RETURN' or ev_enabled <> 'O'
    union all
    select 'policy', format('%%I on %%s', polname, relations.name), jsonb_build_object(
        'command', nullif(polcmd, '*'),
        'permissive', case when not polpermissive then 'no' end,
        'roles', (
            select string_agg(name, ', ' order by name collate "C")
            from unnest(polroles) as role,
                coalesce(case role when 0 then 'everybody' end, pg_get_userbyid(role)::text) as name
        ),
        'using', regexp_replace(pg_get_expr(polqual, polrelid), '\s+', ' ', 'g'),
        'check', regexp_replace(pg_get_expr(polwithcheck, polrelid), '\s+', ' ', 'g')
    )
    from pg_policy join relations on relations.oid = polrelid
    union all
    select 'function', name, jsonb_build_object(
        'owner', pg_get_userbyid(proowner),
        'kind', nullif(prokind, 'f'),
        'arguments', nullif(pg_get_function_arguments(oid), ''),
        'returns', pg_get_function_result(oid),
        'language', (select nullif(lanname, 'plpgsql') from pg_language where pg_language.oid = prolang),
        'rights', case when prosecdef then 'SECURITY DEFINER' end,
        'volatility', case provolatile when 'i' then 'immutable' when 's' then 'stable' end,
        'parallel', nullif(proparallel, 'u'),
        'leakproof', case when proleakproof then 'yes' end,
        'strict', case when proisstrict then 'yes' end,
        'settings', nullif(coalesce(array_to_string(proconfig, ', '), 'none'), 'search_path=pg_catalog, pg_temp'),
        'support', case when prosupport <> 0 then prosupport::regproc::text end,
        'library', probin,
        'body', left(encode(sha256(convert_to(concat(prosrc, pg_get_function_sqlbody(oid)), 'UTF8')), 'hex'), 32)
    )
    from routines
    union all
    select 'type', format('ledger.%%I', typname), jsonb_build_object(
        'owner', pg_get_userbyid(typowner),
        'kind', typtype,
        'base', format_type(nullif(typbasetype, 0), typtypmod),
        'not null', case when typnotnull then 'yes' end,
        'default', typdefault,
        'labels', (select string_agg(enumlabel, ', ' order by enumsortorder) from pg_enum where enumtypid = pg_type.oid)
    )
    from pg_type
    where typnamespace = to_regnamespace('ledger') and typtype <> 'c'
        and not exists (select from pg_type as element where element.typarray = pg_type.oid)
    union all
    -- Whatever else is in the schema: operators, collations, statistics, text search.
    select named.type, named.identity, '{}'
    from pg_depend as member, pg_identify_object(member.classid, member.objid, 0) as named
    where member.refclassid = 'pg_namespace'::regclass and member.refobjid = to_regnamespace('ledger')
        and member.classid not in (
            'pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_constraint'::regclass,
            'pg_default_acl'::regclass, 'pg_publication_namespace'::regclass
        )
    union all
    select 'privileges', object, jsonb_object_agg(role, privileges)
    from (
        select
            object, case granted.role when 0 then 'everybody' else pg_get_userbyid(granted.role)::text end,
            string_agg(privilege, '; ' order by privilege collate "C")
        from granted left join pg_roles on pg_roles.oid = granted.role
        where not coalesce(rolsuper, false) and granted.role is not null
        group by object, granted.role
    ) as each (object, role, privileges)
    group by object
    union all
    -- A default that gives nothing to others takes from everybody what they would have.
    select 'default privileges', object, '{}' from default_grants group by object
)
select kind, object, jsonb_strip_nulls(fact)::text from facts
where not (kind = 'privileges' and fact = '{}')
order by kind collate "C", object collate "C";
