-- Trouble with projections: the entry that one could not apply; and entries that are left out of one, on the record.
-- SQLSTATE, after those of 0004:
--   LE010  an entry that cannot be skipped, or is not skipped

-- Of the live view: where it stands still and why. failed_error names the exception's type and where it was raised, but
-- not its message, which may hold what stood in a body and has to go when that is erased.
alter table ledger.projections
    add column failed_position bigint,
    add column failed_error text,
    add column failing_since timestamptz,
    add column failed_tries int,
    add constraint failure_format check (
        num_nulls(failed_position, failed_error, failing_since, failed_tries) in (0, 4)
        and octet_length(failed_error) <= 500
    );
comment on column ledger.projections.failed_position is
    'The entry that could not be applied; null while nothing is wrong. Cleared when the projection moves past it.';
comment on column ledger.projections.failed_tries is
    'How often it failed for a reason that lies in the entry or in the projection, not in the servers.';

create table ledger.skips (
    ledger_id int not null,
    name text not null,
    position bigint not null,
    skipped bigint not null,
    retried bigint,
    primary key (ledger_id, skipped),
    constraint skip_order check (skipped > position and retried > skipped)
);
create unique index one_skip_per_entry on ledger.skips (ledger_id, name, position) where retried is null;
comment on table ledger.skips is 'Entries that are left out of a projection, live and replayed.';
comment on column ledger.skips.skipped is 'Position of the entry ledger.entry_skipped.';
comment on column ledger.skips.retried is 'Position of the entry ledger.entry_retried; null while the entry is left out.';

-- As in 0004, with the words for skips.
create or replace function ledger.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_nargs > 0 and tg_op in ('INSERT', 'UPDATE') and current_setting('ledger.own', true) = tg_argv[0]
        and current_user = (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid)
    then
        return null;
    end if;
    raise exception '% on %.% is refused: %', tg_op, tg_table_schema, tg_table_name,
        case tg_table_name
            when 'holds' then 'only ledger.place_hold and ledger.release_hold change what is held'
            when 'skips' then 'only ledger.skip_entry and ledger.retry_entry change what is skipped'
            else 'entries of an audit ledger are never changed or removed'
        end
        using errcode = 'LE004';
end
$$;

create trigger append_only
    before delete or truncate or update of ledger_id, name, position, skipped on ledger.skips
    for each statement execute function ledger.refuse_change();
create trigger skipped_by_entries before insert on ledger.skips
    for each statement execute function ledger.refuse_change('ledger.entry_skipped');
create trigger retried_by_entries before update on ledger.skips
    for each statement execute function ledger.refuse_change('ledger.entry_retried');

alter table ledger.skips enable always trigger append_only;
alter table ledger.skips enable always trigger skipped_by_entries;
alter table ledger.skips enable always trigger retried_by_entries;

-- Whoever applies entries holds this row too: an entry is applied or skipped, never both. To be taken before the tail,
-- so that no append waits for a batch that is being applied.
create function ledger.lock_projection(ledger_id int, name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform from ledger.projections as projection
    where projection.ledger_id = $1 and projection.name = $2 order by building for update;
end
$$;

-- The resource of an entry about a skip is a ledger.skip with the id `<projection>:<position>`.
create function ledger.skip_of(entry ledger.audit_logs) returns ledger.skips
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    named constant text[] := regexp_match(entry.resource_id, '^([a-z][a-z0-9_]*):([1-9][0-9]{0,17})$');
begin
    if entry.resource_type is distinct from 'ledger.skip' or named is null then
        raise exception 'an entry % names a ledger.skip, as <projection>:<position>, not %:%',
            entry.action, entry.resource_type, entry.resource_id using errcode = 'LE002';
    end if;
    return row(entry.ledger_id, named[1], named[2]::bigint, entry.position, null)::ledger.skips;
end
$$;

-- Leaves an entry out of the projection that stands still at it, and records that. Returns the entry that says so:
-- `entry`, or the one of before where it is skipped already; then nothing is recorded.
create function ledger.skip_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    skip ledger.skips;
    target_action text;
    done ledger.audit_logs;
begin
    perform set_config('ledger.own', 'ledger.entry_skipped', true);
    perform ledger.check_reason(entry);
    skip := ledger.skip_of(entry);
    perform ledger.lock_projection(skip.ledger_id, skip.name);
    select said.* into done
    from ledger.skips as before
    join ledger.audit_logs as said on said.ledger_id = before.ledger_id and said.position = before.skipped
    where before.ledger_id = skip.ledger_id and before.name = skip.name and before.position = skip.position
        and before.retried is null;
    if found then
        perform set_config('ledger.own', '', true);
        return done;
    end if;
    select action into target_action from ledger.audit_logs
    where ledger_id = skip.ledger_id and position = skip.position;
    if not found then
        raise exception 'there is no entry %', skip.position using errcode = 'LE006';
    elsif target_action = 'ledger.entry_erased' then
        -- The view would keep what it made of the erased body.
        raise exception 'entry % is an erasure, which no view may leave out', skip.position using errcode = 'LE010';
    elsif not exists (
        select from ledger.projections
        where ledger_id = skip.ledger_id and name = skip.name and not building and failed_position = skip.position
    ) then
        raise exception 'projection % does not stand still at entry %', skip.name, skip.position using errcode = 'LE010';
    elsif exists (
        select from ledger.projections
        where ledger_id = skip.ledger_id and name = skip.name and building and position >= skip.position
    ) then
        raise exception 'a rebuild of projection % has applied entry %: let it end, or replay it anew',
            skip.name, skip.position using errcode = 'LE010';
    end if;
    insert into ledger.skips select skip.*;
    update ledger.projections
    set failed_position = null, failed_error = null, failing_since = null, failed_tries = null
    where ledger_id = skip.ledger_id and name = skip.name and not building;
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

-- Takes a skip back, and records that. For the transaction that puts a view in place which has the entry: the order of
-- entries matters, so one that was left out is never applied later.
create function ledger.retry_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    skip ledger.skips;
begin
    perform set_config('ledger.own', 'ledger.entry_retried', true);
    perform ledger.check_reason(entry);
    skip := ledger.skip_of(entry);
    update ledger.skips set retried = entry.position
    where ledger_id = skip.ledger_id and name = skip.name and position = skip.position and retried is null;
    if not found then
        raise exception 'entry % is not skipped by projection %', skip.position, skip.name using errcode = 'LE010';
    end if;
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

select ledger.restrict_readers('ledger.skips', 'ledger_projector');
grant select on ledger.skips to ledger_reader, ledger_projector;
grant execute on function ledger.lock_projection, ledger.skip_entry to ledger_projector, ledger_admin;
grant execute on function ledger.retry_entry to ledger_projector;
