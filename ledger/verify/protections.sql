-- What endangers the ledger beside its own schema; each statement brings one text for each thing that is wrong. All want
-- the settings of catalog.sql, and take the names of the ledger's roles: its groups and ledger_owner.

-- name: views
-- Which tables projections make is for them to say. They are plain, belong to the workers, and show readers the rows of
-- their ledgers only.
with schemas (oid, name) as (
    select oid, quote_ident(nspname) from pg_namespace where nspname = 'ledger_views' or nspname ^@ 'ledger_rebuild_'
),
relations as (
    select
        class.*, schemas.name || '.' || quote_ident(relname) as name,
        case relkind when 'S' then 'sequence' else 'table' end as kind
    from pg_class as class join schemas on schemas.oid = relnamespace where relkind not in ('i', 'I', 't')
),
privileges (name, owner, acl) as (
    select name, relowner, coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
    from relations where relkind <> 'c'
    union all
    select format('(%%I) on %%s', attname, name), relowner, attacl
    from relations join pg_attribute on attrelid = relations.oid where attacl is not null and not attisdropped
    union all
    select 'schema ' || quote_ident(nspname), nspowner, coalesce(nspacl, acldefault('n', nspowner))
    from pg_namespace where nspname ^@ 'ledger_rebuild_'
),
-- As it is on a table of the ledger, which is compared itself.
pattern as (
    select polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid) as using
    from pg_policy where polrelid = to_regclass('ledger.ledgers') and polname = 'readable'
),
readable as (
    select *, exists (
        select from pg_attribute where attrelid = relations.oid and attname = 'ledger_id' and not attisdropped
    ) and exists (
        select from aclexplode(relations.relacl) as granted
        where granted.privilege_type = 'SELECT' and granted.grantee <> relations.relowner
    ) as by_others
    from relations where relkind in ('r', 'p')
)
select format('%%s is %%s: a read view is made of plain tables', name, case
    when relkind = 'c' then 'a type' when relkind = 'v' then 'a view' when relkind = 'm' then 'a materialized view'
    when relkind = 'f' then 'a foreign table' when relpersistence = 'u' then 'UNLOGGED' else 'no ordinary table'
end)
from relations
where relkind not in ('r', 'p', 'S') or relpersistence <> 'p' or exists (
    select from pg_inherits where inhrelid = relations.oid or inhparent = relations.oid and relkind = 'r'
)
union all
select format('%%s %%s belongs to %%s, not to ledger_projector', kind, name, rolname)
from relations join pg_roles on pg_roles.oid = relowner
where rolname not in ('ledger_owner', 'ledger_projector')
union all
select format('schema %%s belongs to %%s, not to ledger_projector', schemas.name, rolname)
from schemas join pg_namespace using (oid) join pg_roles on pg_roles.oid = nspowner
where nspname <> 'ledger_views' and rolname <> 'ledger_projector'
union all
select format('trigger %%I on %%s is %%s', tgname, name, case when tgisinternal then 'disabled' else 'not of the schema' end)
from relations join pg_trigger on tgrelid = relations.oid
where not tgisinternal or tgenabled = 'D'
union all
select format('rule %%I on %%s changes what statements do', rulename, name)
from relations join pg_rewrite on ev_class = relations.oid where rulename <> '_RETURN'
union all
select format('%%s %%s is not of the schema: a read view is made of plain tables', named.type, named.identity)
from pg_depend as member
join schemas on member.refclassid = 'pg_namespace'::regclass and member.refobjid = schemas.oid,
    pg_identify_object(member.classid, member.objid, 0) as named
where member.classid not in (
    'pg_class'::regclass, 'pg_default_acl'::regclass, 'pg_publication_namespace'::regclass, 'pg_extension'::regclass
)
union all
select format('extension %%I is installed in schema %%s', extname, schemas.name)
from pg_extension join schemas on schemas.oid = extnamespace
union all
select format(
    '%%s has %%s%%s%%s: more than the schema grants', case granted.grantee when 0 then 'everybody' else rolname end,
    privilege_type, case when name ^@ '(' then ' ' else ' on ' end, name || case when is_grantable then ' with grant option' else '' end
)
from privileges cross join lateral aclexplode(acl) as granted left join pg_roles on pg_roles.oid = granted.grantee
where granted.grantee <> owner and not coalesce(rolsuper, false)
    -- Row-level security holds whoever may SELECT from a read view; so that is nobody's concern.
    and (is_grantable or privilege_type <> 'SELECT')
union all
select format('row-level security of %%s is off', name) from readable where by_others and not relrowsecurity
union all
select format('policy %%s on %%s is missing', 'readable', name)
from readable
where relrowsecurity and not exists (select from pg_policy where polrelid = readable.oid and polname = 'readable')
union all
select format('policy %%I on %%s is %%s', polname, name, case polname when 'readable' then 'not the one of the schema' else 'not of the schema' end)
from relations join pg_policy as found on polrelid = relations.oid
where polname <> 'readable' or polwithcheck is not null or not exists (
    select from pattern
    where (found.polcmd, found.polpermissive, found.polroles, pg_get_expr(found.polqual, found.polrelid))
        = (pattern.polcmd, pattern.polpermissive, pattern.polroles, pattern.using)
)
order by 1;

-- name: outside
-- What depends on the ledger and its read views, and what exposes them.
with schemas (oid, name) as (
    select oid, nspname from pg_namespace
    where nspname in ('ledger', 'ledger_views') or nspname ^@ 'ledger_rebuild_'
),
ours (classid, objid, name) as (
    select 'pg_class'::regclass, oid, oid::regclass::text from pg_class where relnamespace in (select oid from schemas)
    union all
    select 'pg_proc'::regclass, oid, oid::regprocedure::text from pg_proc where pronamespace in (select oid from schemas)
    union all
    select 'pg_type'::regclass, oid, format_type(oid, null) from pg_type where typnamespace in (select oid from schemas)
),
dependents as (
    select
        ours.name as needed, dependent.classid, dependent.objid, dependent.objsubid, proc.prosecdef,
        coalesce(relation.oid, rewrite.ev_class, attrdef.adrelid, nullif(rowlevel.polrelid, 0), nullif(con.conrelid, 0), trigger.tgrelid) as relid
    from pg_depend as dependent
    join ours on ours.classid = dependent.refclassid and ours.objid = dependent.refobjid
    left join pg_class as relation on dependent.classid = 'pg_class'::regclass and relation.oid = dependent.objid
    left join pg_rewrite as rewrite on dependent.classid = 'pg_rewrite'::regclass and rewrite.oid = dependent.objid
    left join pg_attrdef as attrdef on dependent.classid = 'pg_attrdef'::regclass and attrdef.oid = dependent.objid
    left join pg_policy as rowlevel on dependent.classid = 'pg_policy'::regclass and rowlevel.oid = dependent.objid
    left join pg_constraint as con on dependent.classid = 'pg_constraint'::regclass and con.oid = dependent.objid
    left join pg_trigger as trigger on dependent.classid = 'pg_trigger'::regclass and trigger.oid = dependent.objid
    left join pg_proc as proc on dependent.classid = 'pg_proc'::regclass and proc.oid = dependent.objid
    where not exists (select from ours as own where (own.classid, own.objid) = (dependent.classid, dependent.objid))
        and dependent.classid not in ('pg_publication_rel'::regclass, 'pg_publication_namespace'::regclass)
        and not coalesce(trigger.tgisinternal or trigger.tgfoid = to_regproc('ledger.capture_rows'), false)
),
-- With the rights of its caller a view or a function shows nobody more than the caller may see.
strangers as (
    select dependents.*, case relkind when 'v' then 'view' when 'm' then 'materialized view' end as view
    from dependents left join pg_class on pg_class.oid = relid
    where relid is null and prosecdef is distinct from false
        or relkind <> 't' and relnamespace not in (select oid from schemas)
        and not (relkind = 'v' and exists (
            select from pg_options_to_table(reloptions) where option_name = 'security_invoker' and option_value::boolean
        ))
),
words (pattern) as (
    select format(
        '\mledger_views\M|\mledger"?\s*\.\s*"?(?:%%s)\M|\mledger\M.*\m(?:audit_logs|envelopes)\M|\m(?:audit_logs|envelopes)\M.*\mledger\M'
        '|search_path[^;]*\mledger\M',
        string_agg(distinct relname, '|')
    )
    from pg_class where relnamespace = to_regnamespace('ledger') and relkind in ('r', 'p', 'v')
),
-- Not those that the ledger itself has.
speaking as (
    select proc.oid, prosecdef, concat_ws(' ', prosrc, pg_get_function_sqlbody(proc.oid), array_to_string(proconfig, ' ')) ~* pattern as speaks
    from pg_proc as proc cross join words
    where prokind in ('f', 'p') and pronamespace not in (select oid from schemas)
        and pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
)
select format(
    '%%s %%s depends on %%s', coalesce(view, named.type), coalesce(case when view is not null then relid::regclass::text end, named.identity),
    string_agg(distinct needed, ', ')
)
from strangers, pg_identify_object(classid, objid, objsubid) as named
group by coalesce(view, named.type), coalesce(case when view is not null then relid::regclass::text end, named.identity)
union all
select format('function %%s is SECURITY DEFINER and speaks of the ledger', oid::regprocedure) from speaking where prosecdef and speaks
union all
select format('event trigger %%I (%%s) runs %%s, which %%s', evtname, evtevent, evtfoid::regprocedure, case
    when rolsuper then 'speaks of the ledger' else 'belongs to ' || rolname || ', who is no superuser' end)
from pg_event_trigger join pg_proc on pg_proc.oid = evtfoid join pg_roles on pg_roles.oid = proowner
left join speaking on speaking.oid = evtfoid
where evtenabled <> 'D' and (not rolsuper or coalesce(speaks, true))
union all
select format('publication %%I sends the rows of %%s', pubname, string_agg(format('%%I.%%I', schemaname, tablename), ', ' order by schemaname, tablename))
from pg_publication_tables where schemaname in (select name from schemas) group by pubname
union all
select format('subscription %%I writes into %%s', subname, string_agg(ours.name, ', ' order by ours.name))
from pg_subscription join pg_subscription_rel on srsubid = pg_subscription.oid
join ours on ours.classid = 'pg_class'::regclass and ours.objid = srrelid
group by subname
union all
select format('extension %%I owns %%s: it goes when the extension does', extname, ours.name)
from pg_depend as membership join ours using (classid, objid) join pg_extension on pg_extension.oid = membership.refobjid
where membership.refclassid = 'pg_extension'::regclass and membership.deptype in ('e', 'x')
order by 1;

-- name: roles
-- Who has more rights than the ledger's roles give.
with groups (oid, name) as (
    select oid, rolname from pg_roles where rolname = any (%s::name[])
),
-- Postgres before 16 knows memberships only as a whole.
membership (kind) as (
    select unnest(case when current_setting('server_version_num')::int >= 160000 then '{usage, set}' else '{member}' end::text[])
),
strangers as (
    select * from pg_roles where not rolsuper and rolname !~ '^pg_' and oid not in (select oid from groups)
)
select format('%%s has a role of the ledger, and %%s', rolname, attribute.column2)
from strangers, lateral (values
    (rolbypassrls, 'passes row-level security by (BYPASSRLS)'),
    (rolreplication, 'can copy the whole cluster (REPLICATION)')
) as attribute
where attribute.column1 and exists (select from groups where pg_has_role(strangers.oid, groups.oid, 'member'))
union all
select distinct format('%%s has the rights of %%s', member.rolname, held.rolname)
from strangers as member cross join pg_roles as held cross join membership
where held.rolname in (
    'ledger_owner', 'pg_read_all_data', 'pg_write_all_data', 'pg_maintain',
    'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'
) and pg_has_role(member.oid, held.oid, membership.kind)
union all
select format('%%s may set %%s, which takes protections away', case grantee when 0 then 'everybody' else grantee::regrole::text end, parname)
from pg_parameter_acl cross join lateral aclexplode(paracl) as granted left join pg_roles on pg_roles.oid = grantee
where not coalesce(rolsuper, false) and parname in (
    'session_replication_role', 'allow_system_table_mods', 'ignore_system_indexes', 'zero_damaged_pages',
    'ignore_checksum_failure', 'session_preload_libraries', 'shared_preload_libraries', 'local_preload_libraries',
    'dynamic_library_path', 'jit_provider', 'fsync', 'full_page_writes', 'archive_command', 'archive_library',
    'restore_command', 'wal_level', 'synchronous_standby_names', 'createrole_self_grant', 'event_triggers',
    'restrict_nonsystem_relation_kind', 'extension_control_path', 'allow_alter_system', 'hba_file', 'ident_file'
)
group by grantee, parname
union all
select format('%%s is set for %%s', setting, concat_ws(
    ' in ', 'role ' || nullif(setrole, 0)::regrole, coalesce('database ' || datname, case setrole when 0 then 'all databases' end)
))
from pg_db_role_setting left join pg_database on pg_database.oid = setdatabase cross join unnest(setconfig) as setting
where (setdatabase = 0 or datname = current_database())
    and (
        split_part(setting, '=', 1) in (
            'allow_system_table_mods', 'ignore_system_indexes', 'zero_damaged_pages', 'ignore_checksum_failure', 'event_triggers'
        ) and split_part(setting, '=', 2) <> case split_part(setting, '=', 1) when 'event_triggers' then 'on' else 'off' end
        or split_part(setting, '=', 1) in ('role', 'session_preload_libraries', 'local_preload_libraries', 'session_authorization')
        or setting ^@ 'session_replication_role=' and setting <> 'session_replication_role=origin'
        -- Else pg_catalog comes first.
        or setting ~ '^search_path=.*\mpg_catalog\M' and setting !~ '^search_path=\s*"?pg_catalog\M'
    )
order by 1;

-- name: privileged
-- Who is bound by no privilege, and who can make itself so: no fault, and worth knowing.
with groups (oid, name) as (
    select oid, rolname from pg_roles where rolname = any (%s::name[])
),
found (role, what) as (
    select rolname, 'is a superuser' from pg_roles where rolsuper
    union all
    select rolname, each.column2 from pg_roles, lateral (values
        (rolbypassrls, 'passes row-level security by (BYPASSRLS)'),
        (rolreplication, 'can copy the whole cluster (REPLICATION)'),
        (rolcreaterole, case when current_setting('server_version_num')::int < 160000
            then 'can grant itself any role but superusers (CREATEROLE)' else 'manages roles that it was given or has made (CREATEROLE)' end)
    ) as each
    where each.column1 and not rolsuper
    union all
    select distinct member.rolname, 'can grant itself ' || groups.name
    from pg_auth_members as given join pg_roles as member on member.oid = given.member join groups on groups.oid = given.roleid
    where given.admin_option and not member.rolsuper and member.oid not in (select oid from groups)
    union all
    select member.rolname, 'has the rights of ' || held.rolname
    from pg_roles as member join pg_roles as held on pg_has_role(member.oid, held.oid, 'member')
    where not member.rolsuper and member.oid <> held.oid and member.rolname !~ '^pg_' and held.rolname in (
        'pg_signal_backend', 'pg_create_subscription', 'pg_checkpoint', 'pg_signal_autovacuum_worker', 'pg_use_reserved_connections'
    )
    union all
    select rolname, format('owns database %%I', datname)
    from pg_database join pg_roles on pg_roles.oid = datdba where datname = current_database() and not rolsuper
    union all
    select rolname, format('owns %%s, which event trigger %%I runs', evtfoid::regprocedure, evtname)
    from pg_event_trigger join pg_proc on pg_proc.oid = evtfoid join pg_roles on pg_roles.oid = proowner
    where evtenabled <> 'D'
)
select format('%%s %%s', role, what) from found order by 1;
