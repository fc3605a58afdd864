-- The outbox: events are recorded in any transaction, and appended soon after it commits, without holding the tail.
-- SQLSTATE, after those of 0009:
--   LE012  there is no such ledger
--   LE013  an event that the format does not allow

-- As in 0005: roles belong to the whole cluster, and another database's migration may make this one at this moment.
reset role;
do $$
begin
    if to_regrole('ledger_recorder') is null then
        begin
            create role ledger_recorder;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
    for attempt in 1..100 loop
        exit when exists (
            select from pg_auth_members
            where roleid = to_regrole('ledger_recorder') and member = to_regrole('ledger_owner') and admin_option
        );
        begin
            grant ledger_recorder to ledger_owner with admin option;
        exception when unique_violation or internal_error then
            perform pg_sleep(0.05);
        end;
    end loop;
exception when insufficient_privilege then
    raise exception '%. As a superuser run: create role ledger_recorder; grant ledger_recorder to ledger_owner, % with admin option',
        sqlerrm, quote_ident(current_user) using errcode = 'insufficient_privilege';
end
$$;
set local role ledger_owner;

grant usage on schema ledger to ledger_recorder;

create table ledger.recorders (
    ledger_id int,
    role regrole not null,
    constraint one_recorder_per_ledger unique nulls not distinct (ledger_id, role)
);
comment on table ledger.recorders is 'In which ledgers a member of ledger_recorder may record; a ledger_id of NULL is all of them.';

grant select on ledger.recorders to ledger_admin;

-- Events that are recorded and not sealed yet: they have no position and no hash. They come through ledger.record and the
-- triggers of captured tables alone, and leave in the transaction that appends them (docs/capture.md).
create table ledger.outbox (
    ledger_id int not null,
    seq bigint generated always as identity,
    id uuid not null,
    named boolean not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz,
    actor text not null,
    actor_type text not null,
    action text not null,
    resource_type text,
    resource_id text,
    before json,
    after json,
    metadata json,
    constraint one_event_per_seq primary key (ledger_id, seq)
) with (
    -- Empty most of the time: what is gone is cleared away before an index scan has to pass over much of it.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);
comment on column ledger.outbox.seq is 'The order of insertion, over all ledgers.';
comment on column ledger.outbox.named is 'Whether the id is the caller''s own, so that it may have been recorded before.';
comment on column ledger.outbox.occurred_at is 'NULL unless the caller gave it: then it is recorded_at.';

create trigger unchanged before update or truncate on ledger.outbox
    for each statement execute function ledger.refuse_change();
alter table ledger.outbox enable always trigger unchanged;

grant select, delete on ledger.outbox to ledger_projector;
-- What `status` and `doctor` count.
grant select (ledger_id, seq, recorded_at) on ledger.outbox to ledger_admin;

-- Events of the outbox that cannot be appended, set aside with the reason, so that they are neither lost nor in the way.
create table ledger.rejected (
    ledger_id int not null,
    seq bigint not null,
    id uuid not null,
    named boolean not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz,
    actor text not null,
    actor_type text not null,
    action text not null,
    resource_type text,
    resource_id text,
    before json,
    after json,
    metadata json,
    reason text not null,
    rejected_at timestamptz not null default clock_timestamp(),
    constraint one_rejected_event_per_seq primary key (ledger_id, seq)
);

create trigger unchanged before update or truncate on ledger.rejected
    for each statement execute function ledger.refuse_change();
alter table ledger.rejected enable always trigger unchanged;

grant select, insert on ledger.rejected to ledger_projector;
-- What `status` and `doctor` count.
grant select (ledger_id, seq, recorded_at, rejected_at, reason) on ledger.rejected to ledger_admin;

-- Whoever migrates and does everything alone goes on so (0005).
insert into ledger.recorders (ledger_id, role) values (null, 'ledger_owner');

-- Says why an event cannot be recorded. field: the argument of ledger.record.
create function ledger.refuse_event(field text, problem text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the event is refused: %: %', field, problem using errcode = 'LE013', column = field;
end
$$;

-- Refuses an event that the format does not allow (docs/format.md, "The rules by name"), naming the field.
create function ledger.check_event(
    occurred_at timestamptz, actor text, actor_type text, action text, resource_type text, resource_id text,
    before json, after json, metadata json
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    field text;
    value text;
    brackets text;
    most int;
    size constant int := octet_length(concat(before, after, metadata)) + 4 * num_nulls(before, after, metadata);
begin
    if (resource_type is null) <> (resource_id is null) then
        perform ledger.refuse_event('resource_type', 'resource_type and resource_id go together: give both or neither');
    end if;
    for field, value, most in values
        ('actor', actor, 255), ('actor_type', actor_type, 64), ('action', action, 128),
        ('resource_type', coalesce(resource_type, '-'), 64), ('resource_id', coalesce(resource_id, '-'), 255)
    loop
        if value is null then
            perform ledger.refuse_event(field, case field
                when 'actor' then 'is missing, and the setting ledger.context names none'
                else 'is missing'
            end);
        elsif char_length(value) not between 1 and most then
            perform ledger.refuse_event(
                field, format('must have 1 to %s characters, not %s', most, char_length(value))
            );
        end if;
    end loop;
    if action ^@ 'ledger.' then
        perform ledger.refuse_event('action', 'actions that begin with "ledger." are the ledger''s own');
    elsif occurred_at < to_timestamp(-62135596800) or occurred_at >= to_timestamp(253402300800) then
        perform ledger.refuse_event('occurred_at', 'must lie in the years 0001-9999');
    elsif size > 262070 then
        perform ledger.refuse_event(
            'body', format('before, after and metadata take %s bytes; at most 262070 are allowed', size)
        );
    end if;
    for field, value in values ('before', before::text), ('after', after::text), ('metadata', metadata::text) loop
        -- As ledger.keeps_rules has it.
        if regexp_replace(value, e'\\\\\\\\|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', ' ', 'g') ~ e'\\\\u(0000|[dD][89a-fA-F])'
        then
            perform ledger.refuse_event(field, 'contains U+0000 or a lone surrogate');
        elsif octet_length(value) - octet_length(replace(replace(value, '[', ''), '{', '')) > 64 then
            -- Not by way of jsonb, which drops all but the last of members of one name. Each turn takes the innermost level
            -- away.
            brackets := translate(regexp_replace(value, e'[^][{}"]+|"([^"\\\\]|\\\\.)*"', '', 'g'), '{}', '[]');
            for level in 1 .. 64 loop
                exit when brackets = '';
                brackets := replace(brackets, '[]', '');
            end loop;
            if brackets <> '' then
                perform ledger.refuse_event(field, 'has more than 64 levels');
            end if;
            begin
                perform value::jsonb;  -- as ledger.keeps_rules will
            exception when numeric_value_out_of_range then
                perform ledger.refuse_event(field, 'has a number that Postgres cannot read');
            end;
        end if;
    end loop;
end
$$;

-- Whoever may append may record too. Whoever took a group itself (SET ROLE) may do what its login may.
create function ledger.may_record(ledger_id int, who name) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from ledger.recorders as recorder
        where (recorder.ledger_id is null or recorder.ledger_id = $1)
            and pg_has_role(case who when 'ledger_recorder' then session_user else who end, recorder.role::oid, 'usage')
    ) or ledger.may_write($1, who);
end
$$;

grant execute on function ledger.may_record to ledger_recorder;

-- The id of a ledger in which the caller may record.
create function ledger.recordable(ledger text) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    who constant name := ledger.caller();
    target int;
begin
    select known.ledger_id into target from ledger.ledgers as known where known.name = $1;
    if target is null then
        raise exception 'there is no ledger %', coalesce(quote_literal($1), 'NULL')
            using errcode = 'LE012', column = 'ledger', hint = 'auditledger create NAME makes it.';
    elsif not ledger.may_record(target, who) then
        raise exception '% may not record in ledger %', who, quote_literal($1)
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_recorder USER lets it.';
    end if;
    return target;
end
$$;

-- A UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, and 74 random bits: version 4's of gen_random_uuid, which
-- two bits turn into 7.
create function ledger.new_id() returns uuid
language sql volatile set search_path = pg_catalog, pg_temp
return encode(
    overlay(
        set_bit(set_bit(uuid_send(gen_random_uuid()), 52, 1), 53, 1)
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1
    ),
    'hex'
)::uuid;

-- BLAKE3-256 in its modes (BLAKE3 paper, 2.3). key: eight words. mode: the flag of each compression, 0 for a plain hash.
create function ledger.blake3_in_mode(data bytea, key bigint[], mode int) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    chunks constant int := greatest(1, (octet_length(data) + 1023) / 1024);
    chunk bytea;
    block bytea;
    words bigint[];
    blocks int;
    cv bigint[];
    waiting bigint[] := '{}';  -- the chaining values of finished subtrees, 8 words each
    finished int;
    root int;
    result bytea := '';
begin
    for number in 0 .. chunks - 1 loop
        chunk := substring(data from number * 1024 + 1 for 1024);
        blocks := greatest(1, (octet_length(chunk) + 63) / 64);
        cv := key;
        for at in 0 .. blocks - 1 loop
            block := substring(chunk from at * 64 + 1 for 64);
            words := array(
                select get_byte(padded, word * 4)::bigint + (get_byte(padded, word * 4 + 1)::bigint << 8)
                    + (get_byte(padded, word * 4 + 2)::bigint << 16) + (get_byte(padded, word * 4 + 3)::bigint << 24)
                from (select block || decode(repeat('00', 64 - octet_length(block)), 'hex')) as whole (padded),
                    generate_series(0, 15) as word
                order by word
            );
            root := case when chunks = 1 and at = blocks - 1 then 8 else 0 end;
            cv := ledger.blake3_compress(
                cv, words, number, octet_length(block),
                case when at = 0 then 1 else 0 end + case when at = blocks - 1 then 2 else 0 end + root + mode
            );
        end loop;
        finished := number + 1;
        -- The last chunk joins all that waits; any other, what is as large as itself.
        while cardinality(waiting) > 0 and (number = chunks - 1 or finished % 2 = 0) loop
            root := case when number = chunks - 1 and cardinality(waiting) = 8 then 8 else 0 end;
            cv := ledger.blake3_compress(key, waiting[cardinality(waiting) - 7:] || cv, 0, 64, 4 + root + mode);
            waiting := waiting[:cardinality(waiting) - 8];
            finished := finished / 2;
        end loop;
        waiting := waiting || cv;
    end loop;
    for word in 1 .. 8 loop
        for shift in 0 .. 3 loop
            result := result || set_byte('\x00'::bytea, 0, ((cv[word] >> (shift * 8)) & 255)::int);
        end loop;
    end loop;
    return result;
end
$$;

-- BLAKE3-256, for what has to be compared with a hash where nobody who can compute it may read what is hashed: an
-- erasure. A body of 1 KiB takes some milliseconds, the largest some seconds: nothing for appends.
create or replace function ledger.blake3(data bytea) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return ledger.blake3_in_mode(
        data, '{1779033703,3144134277,1013904242,2773480762,1359893119,2600822924,528734635,1541459225}', 0
    );
end
$$;

-- The id that stands for an idempotency key, as format/canonical.py makes it: a UUIDv8 of the key's BLAKE3 hash in the mode
-- derive_key. Some milliseconds: an id of one's own costs nothing.
create function ledger.id_of_key(key text) returns uuid
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    -- Of the context "auditledger 2026-11 idempotency key to entry id".
    context constant bigint[] := '{3455702375,1609123059,2481704813,3837134925,4125420130,2205140849,3280789708,3293259817}';
    bytes bytea;
begin
    if char_length(key) not between 1 and 1024 then
        perform ledger.refuse_event(
            'idempotency_key', format('must have 1 to 1024 characters, not %s', char_length(key))
        );
    end if;
    bytes := substring(ledger.blake3_in_mode(convert_to(key, 'UTF8'), context, 64) for 16);
    bytes := set_byte(bytes, 6, 128 | (get_byte(bytes, 6) & 15));
    return encode(set_byte(bytes, 8, 128 | (get_byte(bytes, 8) & 63)), 'hex')::uuid;
end
$$;

-- Records an event in the caller's transaction: it is appended to the ledger, soon, if and only if that commits. Takes no
-- lock that another writer waits for. Returns the id that the entry will have. docs/capture.md describes the arguments.
-- In one function, because it runs once an event: each that it called would cost as much as half of the INSERT.
create function ledger.record(
    ledger text, actor text default null, action text default null,
    resource_type text default null, resource_id text default null,
    before json default null, after json default null, metadata json default null,
    id uuid default null, idempotency_key text default null,
    actor_type text default null, occurred_at timestamptz default null
) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    context jsonb;
    target int;
    entry_id uuid := id;
    texts constant text := concat(before, after, metadata);
    -- The transaction gets its id before the INSERT takes a seq: ledger.pass_over_sealed relies on it. On a standby it
    -- gets none, and the INSERT is refused.
    transaction_id constant xid8 := case when pg_is_in_recovery() then null else pg_current_xact_id() end;
begin
    -- For most callers; `recordable` asks for the others too (a role that was set, a writer), and refuses.
    select known.ledger_id into target from ledger.ledgers as known, ledger.recorders as recorder
    where known.name = $1 and coalesce(recorder.ledger_id, known.ledger_id) = known.ledger_id
        and current_setting('role') = 'none' and pg_has_role(session_user, recorder.role, 'usage');
    if target is null then
        target := ledger.recordable($1);
    end if;
    if actor is null then
        context := nullif(current_setting('ledger.context', true), '');
        actor := context ->> 'actor';
        actor_type := coalesce(actor_type, context ->> 'actor_type');
    end if;
    actor_type := coalesce(actor_type, 'user');
    -- The first that is not kept is named by check_event; nearly always all are.
    if (
        char_length(actor) between 1 and 255 and char_length(actor_type) between 1 and 64
        and char_length(action) between 1 and 128 and not action ^@ 'ledger.'
        and (resource_type is null) = (resource_id is null)
        and char_length(coalesce(resource_type, '-')) between 1 and 64
        and char_length(coalesce(resource_id, '-')) between 1 and 255
        and occurred_at is null and idempotency_key is null
        and octet_length(texts) <= 262000 and strpos(texts, e'\\u') = 0
        and octet_length(texts) - octet_length(replace(replace(texts, '[', ''), '{', '')) <= 64
    ) is not true then
        perform ledger.check_event(
            occurred_at, actor, actor_type, action, resource_type, resource_id, before, after, metadata
        );
        if idempotency_key is not null then
            if id is not null then
                perform ledger.refuse_event('idempotency_key', 'give an id or an idempotency_key, not both');
            end if;
            entry_id := ledger.id_of_key(idempotency_key);
        end if;
    end if;
    insert into ledger.outbox (
        ledger_id, id, named, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
        before, after, metadata
    ) values (
        target,
        -- As ledger.new_id makes it: a call of it would take a fifth of the INSERT.
        coalesce(entry_id, encode(
            overlay(
                set_bit(set_bit(uuid_send(gen_random_uuid()), 52, 1), 53, 1)
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1
            ),
            'hex'
        )::uuid),
        entry_id is not null, clock_timestamp(), occurred_at,
        actor, actor_type, action, resource_type, resource_id, before, after, metadata
    ) returning outbox.id into entry_id;
    -- A sealer that has nothing to do holds this lock (capture/sealer.py): it waits for a notification. One that is at
    -- work looks again by itself; to notify it at each commit would have the commits wait for one another.
    if pg_try_advisory_lock_shared(710183015, 0) then
        perform pg_advisory_unlock_shared(710183015, 0);
    else
        perform pg_notify('ledger_outbox', '');
    end if;
    return entry_id;
end
$$;
comment on function ledger.record is 'Records an event, which is appended to the ledger if this transaction commits; returns its id.';

grant execute on function ledger.record to ledger_recorder, ledger_writer;

-- Lets the looks of this session at the outbox begin behind the events of a ledger that are gone for good. Else each would
-- pass over all that were removed since the oldest transaction anywhere began, because VACUUM keeps those.
-- An event of a low seq may become visible late, but who takes a seq has a transaction id by then (ledger.record sees to
-- it). So a mark, a seq and a transaction id that was assigned later, says: no transaction from that id on takes that seq
-- or a lower one. Once all before that id have ended, what is not visible up to that seq never will be.
-- Both are kept in settings of the session. A crash of the server, which may bring sealed events back, ends that.
create function ledger.pass_over_sealed(ledger int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gone bigint := coalesce(nullif(current_setting('ledger.gone_' || ledger, true), ''), '0');
    mark constant text[] := string_to_array(nullif(current_setting('ledger.mark_' || ledger, true), ''), ' ');
    newest bigint;
begin
    if pg_current_xact_id_if_assigned() is not null then
        return;  -- a mark needs an id that is newer than the seq
    end if;
    if mark[2]::xid8 > pg_snapshot_xmin(pg_current_snapshot()) then
        return;
    end if;
    if mark is not null then
        select least(mark[1]::bigint, min(waiting.seq) - 1) into gone
        from ledger.outbox as waiting where waiting.ledger_id = $1 and waiting.seq > gone;
        perform set_config('ledger.gone_' || ledger, gone::text, false);
    end if;
    select case when is_called then last_value else 0 end into newest from ledger.outbox_seq_seq;
    perform set_config('ledger.mark_' || ledger, newest || ' ' || pg_current_xact_id(), false);
end
$$;

grant execute on function ledger.pass_over_sealed to ledger_projector;

-- Where an event that was recorded stands in the ledger; reason: why it was set aside. No row while it waits.
create function ledger.receipt(ledger text, id uuid) returns table (
    "position" bigint, hash bytea, recorded_at timestamptz, reason text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    target constant int := ledger.recordable($1);
begin
    return query
    select entry.position, entry.hash, entry.recorded_at, null::text
    from ledger.audit_logs as entry where entry.ledger_id = target and entry.id = $2;
    if not found then
        return query
        select null::bigint, null::bytea, null::timestamptz, rejected.reason
        from ledger.rejected as rejected where rejected.ledger_id = target and rejected.id = $2
        order by rejected.seq desc limit 1;
    end if;
end
$$;

grant execute on function ledger.receipt to ledger_recorder, ledger_writer;

create or replace function ledger.check_grant(granted text, grantee text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    groups constant text[] :=
        '{ledger_recorder, ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin}';
begin
    if granted is null or granted <> all (groups) then
        raise exception '% is none of %', granted, array_to_string(groups, ', ') using errcode = '0LP01';
    elsif not exists (select from pg_roles where rolname = grantee) then
        raise exception 'there is no role % in this cluster', grantee using errcode = '0LP01',
            hint = 'CREATE ROLE makes it.';
    elsif grantee = any (groups || 'ledger_owner'::text) then
        raise exception '% is itself one of the ledger''s roles', grantee using errcode = '0LP01';
    end if;
end
$$;

-- Makes a user a member of one of the groups. ledger_ids: what a reader may read, besides what it may already; NULL for
-- all ledgers, those to come among them.
create or replace function ledger.grant_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    grants constant text := case granted
        when 'ledger_reader' then 'readers' when 'ledger_writer' then 'writers' when 'ledger_recorder' then 'recorders'
    end;
begin
    perform ledger.check_grant(granted, grantee);
    execute format('grant %I to %I', granted, grantee);
    if grants is not null then
        execute format(
            'insert into ledger.%I (ledger_id, role)'
            ' select id, $1 from unnest(coalesce($2, array[null::int])) as id on conflict do nothing', grants
        ) using quote_ident(grantee)::regrole, ledger_ids;
    end if;
end
$$;

-- The reverse. ledger_ids: what a reader may read no longer; the role goes with the last of them. NULL: the role at once.
create or replace function ledger.revoke_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    grants constant text := case granted
        when 'ledger_reader' then 'readers' when 'ledger_writer' then 'writers' when 'ledger_recorder' then 'recorders'
    end;
    has_all boolean;
    has_more boolean;
begin
    perform ledger.check_grant(granted, grantee);
    if grants is not null then
        execute format('select bool_or(ledger_id is null) from ledger.%I where role = $1', grants)
            into has_all using quote_ident(grantee)::regrole;
        if ledger_ids is not null and has_all then
            raise exception '% % all ledgers: revoke the role without naming one, then grant it those that are left',
                grantee, case granted
                    when 'ledger_reader' then 'reads' when 'ledger_writer' then 'appends to' else 'records in'
                end using errcode = '0LP01';
        end if;
        execute format('delete from ledger.%I where role = $1 and ($2 is null or ledger_id = any ($2))', grants)
            using quote_ident(grantee)::regrole, ledger_ids;
        execute format('select exists (select from ledger.%I where role = $1)', grants)
            into has_more using quote_ident(grantee)::regrole;
        if has_more then
            return;
        end if;
    end if;
    execute format('revoke %I from %I', granted, grantee);
    -- ADMIN OPTION alone, which whoever created the role has, gives nothing of it.
    if exists (
        select from pg_roles
        where rolname = grantee and not rolsuper and (
            pg_has_role(oid, to_regrole(granted), 'usage') or pg_has_role(oid, to_regrole(granted), case
                when current_setting('server_version_num')::int >= 160000 then 'set' else 'member'
            end)
        )
    ) then
        raise exception '% has % through another role, or by the grant of somebody else, who has to revoke it: nothing was'
            ' changed', grantee, granted using errcode = '0LP01';
    end if;
end
$$;

-- Opening a ledger by its name takes no more.
create policy recordable on ledger.ledgers for select to ledger_recorder
    using (ledger.may_record(ledger_id, current_user));
grant select on ledger.ledgers, ledger.migrations to ledger_recorder;
