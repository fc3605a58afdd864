-- Erasure, legal hold, and who may record the ledger's own actions. SQLSTATEs, after those of 0002:
--   LE005  an action that begins with `ledger.`, and not from the functions below
--   LE006  there is no such entry
--   LE007  an entry that cannot be erased
--   LE008  a legal hold forbids it
--   LE009  nothing is held that could be released
--
-- The functions that record `ledger.*` run as the owner of the tables and say in the setting `ledger.own`, for as long
-- as they run, which action is theirs. Anybody may give that setting a value, but only they have it as the owner. The
-- triggers below are not SECURITY DEFINER: in them, current_user is whoever runs the statement.

create table ledger.holds (
    ledger_id int not null,
    resource_type text not null,
    resource_id text not null,
    placed bigint not null,
    released bigint constraint released_after_placed check (released > placed),
    primary key (ledger_id, placed)
);
create unique index one_hold_per_resource on ledger.holds (ledger_id, resource_type, resource_id)
    where released is null;
comment on table ledger.holds is
    'Legal holds: nothing about the resource may be erased. Resource type ledger.entry: the one entry at a position.';
comment on column ledger.holds.placed is 'Position of the entry ledger.hold_placed.';
comment on column ledger.holds.released is 'Position of the entry ledger.hold_released; null while the hold stands.';

-- As in 0002; but a trigger's argument names the one own action that may insert or update.
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
            else 'entries of an audit ledger are never changed or removed'
        end
        using errcode = 'LE004';
end
$$;

create function ledger.refuse_own_action() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('ledger.own', true) = new.action
        and current_user = (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid)
    then
        return null;
    end if;
    raise exception 'entry % is refused: only the ledger''s own functions record the action %', new.position, new.action
        using errcode = 'LE005';
end
$$;

create function ledger.refuse_more_than_bodies() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if num_nonnulls(new.before, new.after, new.metadata, new.salt) = 0
        and (
            new.ledger_id, new.position, new.id, new.recorded_at, new.occurred_at, new.actor, new.actor_type,
            new.action, new.resource_type, new.resource_id, new.body_hash, new.prev_hash, new.hash
        ) is not distinct from (
            old.ledger_id, old.position, old.id, old.recorded_at, old.occurred_at, old.actor, old.actor_type,
            old.action, old.resource_type, old.resource_id, old.body_hash, old.prev_hash, old.hash
        )
    then
        return new;
    end if;
    raise exception 'UPDATE on ledger.audit_logs is refused: of entry % more would change than that its body goes',
        old.position using errcode = 'LE004';
end
$$;

-- AFTER, because a BEFORE ROW trigger would take COPY its way of many rows at a time.
create trigger own_actions after insert on ledger.audit_logs
    for each row when (new.action ^@ 'ledger.') execute function ledger.refuse_own_action();
drop trigger append_only on ledger.audit_logs;
create trigger append_only before update or delete or truncate on ledger.audit_logs
    for each statement execute function ledger.refuse_change('ledger.entry_erased');
-- For what append_only has let through.
create trigger only_bodies before update on ledger.audit_logs
    for each row when (current_setting('ledger.own', true) <> '') execute function ledger.refuse_more_than_bodies();
create trigger append_only
    before delete or truncate or update of ledger_id, resource_type, resource_id, placed on ledger.holds
    for each statement execute function ledger.refuse_change();
create trigger placed_by_entries before insert on ledger.holds
    for each statement execute function ledger.refuse_change('ledger.hold_placed');
create trigger released_by_entries before update on ledger.holds
    for each statement execute function ledger.refuse_change('ledger.hold_released');

alter table ledger.audit_logs enable always trigger own_actions;
alter table ledger.audit_logs enable always trigger append_only;
alter table ledger.audit_logs enable always trigger only_bodies;
alter table ledger.holds enable always trigger append_only;
alter table ledger.holds enable always trigger placed_by_entries;
alter table ledger.holds enable always trigger released_by_entries;

-- The rest of what makes an own entry: its action is the function's, its reason is said, and it says nothing else.
-- Runs with the rights of its caller: called by anybody else, its INSERT is refused like any other.
create function ledger.insert_own(entry ledger.audit_logs) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if entry.action is distinct from current_setting('ledger.own', true) then
        raise exception 'this function does not record the action %', entry.action using errcode = 'LE002';
    end if;
    insert into ledger.audit_logs select entry.*;
end
$$;

create function ledger.check_reason(entry ledger.audit_logs) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if num_nonnulls(entry.before, entry.after) > 0 or coalesce(btrim(entry.metadata ->> 'reason'), '') = '' then
        raise exception 'an entry % has metadata with a reason, and neither before nor after', entry.action
            using errcode = 'LE002';
    end if;
end
$$;

-- An entry that the resource_id of another names, as {"resource_type": "ledger.entry"} does.
create function ledger.named_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    named ledger.audit_logs;
begin
    if entry.resource_id ~ '^[1-9][0-9]{0,17}$' then
        select * into named from ledger.audit_logs
        where ledger_id = entry.ledger_id and position = entry.resource_id::bigint;
    end if;
    if named.position is null then
        raise exception 'there is no entry %', entry.resource_id using errcode = 'LE006';
    end if;
    return named;
end
$$;

-- Removes the body of the entry that `erasure` names, and records `erasure`. Returns the entry that says so: `erasure`,
-- or the one of before where the body was erased already; then nothing is recorded.
create function ledger.erase_entry(erasure ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp set ledger.own = 'ledger.entry_erased' as $$
declare
    target ledger.audit_logs;
    done ledger.audit_logs;
    held bigint;
begin
    perform ledger.check_reason(erasure);
    if erasure.resource_type is distinct from 'ledger.entry' then
        raise exception 'an erasure names a ledger.entry, not a %', erasure.resource_type using errcode = 'LE002';
    end if;
    target := ledger.named_entry(erasure);
    if target.action ^@ 'ledger.' then
        raise exception 'entry % is the ledger''s own (%): such entries cannot be erased',
            target.position, target.action using errcode = 'LE007';
    end if;
    if target.salt is null then
        select * into done from ledger.audit_logs
        where ledger_id = target.ledger_id and resource_type = 'ledger.entry' and resource_id = target.position::text
            and action = 'ledger.entry_erased' and position > target.position
        order by position limit 1;
        if done.position is null then
            raise exception 'the body of entry % is gone, and no entry says who erased it: verify the ledger',
                target.position using errcode = 'LE007';
        end if;
        return done;
    end if;
    select placed into held from ledger.holds
    where ledger_id = target.ledger_id and released is null
        and (resource_type, resource_id) in (
            ('ledger.entry', target.position::text), (target.resource_type, target.resource_id)
        )
    limit 1;
    if held is not null then
        raise exception 'entry % is under the legal hold of entry %: nothing was erased', target.position, held
            using errcode = 'LE008';
    end if;
    update ledger.audit_logs set before = null, after = null, metadata = null, salt = null
    where ledger_id = target.ledger_id and position = target.position;
    perform ledger.insert_own(erasure);
    return erasure;
end
$$;

-- Places a hold on the resource of `entry`, and records it. Returns the entry that says so: `entry`, or the one of
-- before where the resource is held already; then nothing is recorded.
create function ledger.place_hold(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp set ledger.own = 'ledger.hold_placed' as $$
declare
    done ledger.audit_logs;
begin
    perform ledger.check_reason(entry);
    if entry.resource_type = 'ledger.entry' then
        perform ledger.named_entry(entry);
    end if;
    select said.* into done
    from ledger.holds as hold
    join ledger.audit_logs as said on said.ledger_id = hold.ledger_id and said.position = hold.placed
    where hold.ledger_id = entry.ledger_id and hold.released is null
        and hold.resource_type = entry.resource_type and hold.resource_id = entry.resource_id;
    if found then
        return done;
    end if;
    insert into ledger.holds (ledger_id, resource_type, resource_id, placed)
    values (entry.ledger_id, entry.resource_type, entry.resource_id, entry.position);
    perform ledger.insert_own(entry);
    return entry;
end
$$;

-- Releases the hold on the resource of `entry`, and records it. Returns the entry that says so: `entry`, or that of the
-- last release where nothing is held any more; then nothing is recorded.
create function ledger.release_hold(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp set ledger.own = 'ledger.hold_released' as $$
declare
    done ledger.audit_logs;
begin
    perform ledger.check_reason(entry);
    update ledger.holds set released = entry.position
    where ledger_id = entry.ledger_id and released is null
        and resource_type = entry.resource_type and resource_id = entry.resource_id;
    if found then
        perform ledger.insert_own(entry);
        return entry;
    end if;
    select said.* into done
    from ledger.holds as hold
    join ledger.audit_logs as said on said.ledger_id = hold.ledger_id and said.position = hold.released
    where hold.ledger_id = entry.ledger_id
        and hold.resource_type = entry.resource_type and hold.resource_id = entry.resource_id
    order by hold.released desc limit 1;
    if not found then
        raise exception 'there is no hold on %:%', entry.resource_type, entry.resource_id using errcode = 'LE009';
    end if;
    return done;
end
$$;

-- Records that a signing key takes another's place. Returns the entry that says so, which is there already when it is
-- said again with the same id.
create function ledger.record_key(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp set ledger.own = 'ledger.key_rotated' as $$
declare
    done ledger.audit_logs;
begin
    select * into done from ledger.audit_logs
    where ledger_id = entry.ledger_id and id = entry.id and action = 'ledger.key_rotated';
    if found then
        return done;
    end if;
    if entry.resource_type is distinct from 'ledger.key' then
        raise exception 'a rotation names a ledger.key, not a %', entry.resource_type using errcode = 'LE002';
    end if;
    perform ledger.insert_own(entry);
    return entry;
end
$$;

-- Whoever may erase, hold, release or rotate is granted it by name.
revoke execute on function
    ledger.erase_entry, ledger.place_hold, ledger.release_hold, ledger.record_key
from public;
