-- name: wider
-- Who may do more than the migrations grant, and what no longer holds readers to their ledgers: one row for each.
-- Superusers are left out: no privilege binds them. Wants the search_path that verify.sql's `begin` sets.
with expected (kind, object, "column", role, privilege) as (
    select * from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
),
restricted (name, unrestricted) as (
    select name, string_to_array(nullif(roles, ''), ' ') from unnest(%s::text[], %s::text[]) as restricted (name, roles)
),
groups (name, oid) as (
    select rolname, oid from pg_roles
    where rolname = any ('{ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin}')
),
schemas (name, oid) as (
    select nspname, oid from pg_namespace where nspname in ('ledger', 'ledger_views')
),
relations (name, oid, own, kind, owner, acl, secured) as (
    select
        format('%%I.%%I', schemas.name, relname), class.oid, schemas.name = 'ledger',
        case relkind when 'S' then 'sequence' else 'table' end, relowner,
        coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner)), relrowsecurity
    from pg_class as class join schemas on schemas.oid = relnamespace where relkind in ('r', 'p', 'v', 'm', 'f', 'S')
),
routines (name, oid, own, owner, acl) as (
    select
        format('%%I.%%I', schemas.name, proname), proc.oid, schemas.name = 'ledger', proowner,
        coalesce(proacl, acldefault('f', proowner))
    from pg_proc as proc join schemas on schemas.oid = pronamespace
    where schemas.name = 'ledger' or prosecdef
),
privileges (kind, object, "column", own, owner, acl) as (
    select 'schema', nspname::text, '', true, nspowner, coalesce(nspacl, acldefault('n', nspowner))
    from pg_namespace where oid in (select oid from schemas)
    union all
    select kind, name, '', own, owner, acl from relations
    union all
    select relations.kind, relations.name, attname, relations.own, relations.owner, attacl
    from pg_attribute join relations on relations.oid = attrelid where attacl is not null
    union all
    select 'function', name, '', own, owner, acl from routines
),
-- Row-level security holds whoever may SELECT from a read view; so that is nobody's concern.
wider (kind, object, "column", role, privilege, grantable) as (
    select
        privileges.kind, privileges.object, privileges."column", coalesce(grantee.rolname, 'everybody'),
        lower(granted.privilege_type), granted.is_grantable
    from privileges
    cross join lateral aclexplode(privileges.acl) as granted
    left join pg_roles as grantee on grantee.oid = granted.grantee
    where granted.grantee <> privileges.owner
        and not coalesce(grantee.rolsuper, false)
        and (privileges.own or privileges.kind <> 'table' or granted.privilege_type <> 'SELECT')
        and (
            granted.is_grantable
            or not exists (
                select from expected
                where expected.kind = privileges.kind and expected.object = privileges.object
                    and expected."column" in ('', privileges."column") and expected.role = grantee.rolname
                    and expected.privilege = lower(granted.privilege_type)
            )
        )
),
owners (what, owner, wanted) as (
    select 'schema ' || nspname, nspowner, '{ledger_owner}'::text[]
    from pg_namespace where oid in (select oid from schemas)
    union all
    select kind || ' ' || name, owner, case when own then '{ledger_owner}' else '{ledger_owner, ledger_projector}' end::text[]
    from relations
    union all
    select 'function ' || name, owner, case
        -- It reads what ledger_projector owns.
        when name = 'ledger.timeline_matches' then '{ledger_projector}'
        when own then '{ledger_owner}'
        else '{ledger_owner, ledger_projector}'
    end::text[]
    from routines
),
-- Postgres before 16 knows memberships only as a whole.
membership (kind) as (
    select unnest(case when current_setting('server_version_num')::int >= 160000 then '{usage, set}' else '{member}' end::text[])
),
policies (name, policy, command, permissive, roles, condition, checked) as (
    select
        relations.name, polname, polcmd, polpermissive,
        array(select coalesce(rolname, 'everybody') from unnest(polroles) as p left join pg_roles as r on r.oid = p order by 1),
        regexp_replace(pg_get_expr(polqual, polrelid), '\s+', ' ', 'g'), pg_get_expr(polwithcheck, polrelid)
    from pg_policy join relations on relations.oid = polrelid
),
wanted_policies (name, policy, command, permissive, roles, condition, checked) as (
    select
        name, 'readable', 'r'::"char", true, '{ledger_reader}'::name[],
        '(ledger_id = ANY (ARRAY( SELECT readable.ledger_id FROM ledger.readable)))', null
    from (
        select name from restricted
        union all
        select name from relations
        where not own and secured
    ) as readers
    union all
    select
        name, 'everything', '*', true, array(select role::name from unnest(unrestricted) as role order by 1), 'true', 'true'
    from restricted where unrestricted is not null
    union all
    select
        name, 'writable', '*', true, '{ledger_writer}', 'ledger.may_write(ledger_id, CURRENT_USER)', null
    from (values ('ledger.ledgers'), ('ledger.tails')) as writers (name)
),
-- SHA-256 of a view's definition without white space and the prefixes that not every version of Postgres prints.
views (name, definition) as (
    values
        ('ledger.readable', '27436c66e1da3484b1c704f94dafdde012aa8614c7cd067f6bc56bd3919a947d'),
        ('ledger.entries', '4291a3a968301c32dfb86c34f3e013b198b930a04001c03223cafa25060978f3'),
        ('ledger.envelopes', 'a872c7c390916c2f6ef65a62c838fa20a6e3d4f10b4dba4b94c6bf93c9831e9a')
)
select format(
    '%%s %%s %%s %%s%%s%%s: more than the schema grants', role, case when grantable then 'may grant' else 'has' end,
    upper(privilege), case when "column" = '' then 'on ' else format('(%%I) on ', "column") end,
    case kind when 'table' then '' else kind || ' ' end, object
)
from wider
union all
select format('%%s belongs to %%s, not to %%s', what, rolname, wanted[cardinality(wanted)])
from owners join pg_roles on pg_roles.oid = owner
where rolname <> all (wanted) and not rolsuper
union all
select format('role %%s %%s', rolname, case
    when rolsuper then 'is a superuser'
    when rolcanlogin then 'can log in: it is a group, for others to be members of'
    else 'passes row-level security by'
end)
from pg_roles
where rolname in (select name from groups union all select 'ledger_owner')
    and (rolcanlogin or rolsuper or rolbypassrls)
union all
select distinct format('%%s has the rights of %%s', member.rolname, held.rolname)
from pg_roles as member cross join pg_roles as held cross join membership
where member.oid <> held.oid and not member.rolsuper and pg_has_role(member.oid, held.oid, membership.kind)
    and (
        held.rolname = 'ledger_owner'
        or held.oid in (select oid from groups) and member.oid in (select oid from groups)
        or held.rolname in (
            'pg_read_all_data', 'pg_write_all_data',
            'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'
        )
    )
union all
select format('row-level security of %%s is off', coalesce(relations.name, restricted.name))
from restricted full join relations on relations.name = restricted.name
where not coalesce(relations.secured, false)
    and (
        restricted.name is not null
        -- A read view that somebody but its owner may read, though it has rows of several ledgers.
        or not relations.own
            and exists (
                select from aclexplode(relations.acl) as granted
                where granted.privilege_type = 'SELECT' and granted.grantee <> relations.owner
            )
            and exists (select from pg_attribute where attrelid = relations.oid and attname = 'ledger_id')
    )
union all
select format('policy %%s on %%s is %%s', coalesce(found.policy, wanted.policy), coalesce(found.name, wanted.name), case
    when found.policy is null then 'missing'
    when wanted.policy is null then 'not of the schema'
    else 'not the one of the schema'
end)
from policies as found
full join wanted_policies as wanted on wanted.name = found.name and wanted.policy = found.policy
where (found.command, found.permissive, found.roles, found.condition, coalesce(found.checked, ''))
    is distinct from (wanted.command, wanted.permissive, wanted.roles, wanted.condition, coalesce(wanted.checked, ''))
union all
select format('view %%s is %%s', views.name, case
    when found.oid is null then 'missing'
    when not coalesce(found.reloptions @> '{security_barrier=true}', false) then 'no security barrier'
    else 'not the one of the schema'
end)
from views
left join pg_class as found on found.oid = to_regclass(views.name) and found.relkind = 'v'
where found.oid is null
    or not coalesce(found.reloptions = '{security_barrier=true}', false)
    or views.definition <> encode(sha256(convert_to(
        regexp_replace(pg_get_viewdef(found.oid), '\s|(entry|ledger)\.', '', 'g'), 'UTF8'
    )), 'hex')
order by 1;

-- name: grant
select ledger.grant_role(%s, %s, %s);

-- name: revoke
select ledger.revoke_role(%s, %s, %s);
