-- Read views and what is known of them.

create schema ledger_views;
comment on schema ledger_views is 'Read views made from the ledger; any of them can be dropped and replayed.';

-- A projection's checkpoint moves in the transaction that changes its tables. `building` marks the one that a rebuild
-- fills beside the live one.
create table ledger.projections (
    ledger_id int not null,
    name text not null,
    building boolean not null default false,
    version int not null,
    epoch int not null default 1,
    position bigint not null default 0,
    hash bytea not null default decode(repeat('00', 32), 'hex'),
    recorded_at timestamptz not null default '0001-01-01 00:00:00+00',
    updated_at timestamptz not null default now(),
    primary key (ledger_id, name, building)
) with (fillfactor = 50);

create table ledger.verifications (
    ledger_id int not null,
    verified_at timestamptz not null default now(),
    first bigint not null,
    last bigint not null,
    head bytea not null,
    findings int not null,
    primary key (ledger_id, verified_at)
);
comment on table ledger.verifications is 'For status: when each ledger was verified last, and whether it held.';

create table ledger.subscriptions (
    ledger_id int not null,
    name text not null,
    position bigint not null,
    updated_at timestamptz not null default now(),
    primary key (ledger_id, name)
) with (fillfactor = 50);
comment on table ledger.subscriptions is
    'Each consumer group has dealt with everything up to here, so that it can go on when Redis has lost it.';

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
