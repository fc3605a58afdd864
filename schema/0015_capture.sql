-- Records the next rows of a captured table, in the order of its key, as they are now. Returns how many were read; 0 at the
-- end. Runs with the rights of its caller, who owns the table: the rows go through a temporary table, which is captured.
create function ledger.backfill_capture(relation regclass, batch int) returns int
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'iso_8601' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
    capture record;
    columns text;
    after_last text := 'true';
    last text[];
    many int;
begin
    select * into capture from ledger.begin_backfill(relation);
    if capture.ended then
        return 0;
    end if;
    select string_agg(format('%I', name), ', ' order by place) into columns from unnest(capture.key) with ordinality as each (name, place);
    if capture.backfilled is not null then
        select format('(%s) > (%s)', columns, string_agg(format('cast(%L as %s)', each.value, format_type(atttypid, atttypmod)), ', ' order by each.place))
        into after_last
        from unnest(capture.key, capture.backfilled) with ordinality as each (name, value, place)
        join pg_attribute on attrelid = relation and attname = each.name;
    end if;
    execute format('create temp table ledger_backfill (like %s) on commit drop', relation);
    execute format(
        'create trigger ledger_capture_insert after insert on pg_temp.ledger_backfill referencing new table as new_rows'
        ' for each statement execute function ledger.capture_rows(%L, %L)', capture.capture_id, 'backfilled'
    );
    execute format('insert into pg_temp.ledger_backfill select * from %s where %s order by %s limit %s', relation, after_last, columns, batch);
    get diagnostics many = row_count;
    if many > 0 then
        execute format(
            'select array[%s] from pg_temp.ledger_backfill order by %s limit 1',
            (select string_agg(format('%I::text', name), ', ' order by place) from unnest(capture.key) with ordinality as each (name, place)),
            (select string_agg(format('%I desc', name), ', ' order by place) from unnest(capture.key) with ordinality as each (name, place))
        ) into last;
    end if;
    drop table pg_temp.ledger_backfill;
    perform ledger.keep_backfill(capture.capture_id, last, many < batch);
    return many;
end
$$;

grant execute on function ledger.backfill_capture to ledger_admin;

-- What is not as it was when the captures were installed. broken: changes are not captured.
create function ledger.capture_drift(only_of regclass default null) returns table (relation text, broken boolean, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with drift (relation, broken, problem) as (
        select capture.relation, true, 'the table is gone'
        from ledger.captures as capture where not exists (select from pg_class where oid = capture.relation)
        union all
        select capture.relation, true, format('trigger %I on %s %s', wanted.name, wanted.source, wanted.problem)
        from ledger.captures as capture cross join ledger.capture_triggers(capture.relation) as wanted
        where wanted.problem is not null
        union all
        select capture.relation, true, format('%s is a foreign table, whose changes are not captured', child.oid::regclass)
        from ledger.captures as capture join pg_inherits on inhparent in (select ledger.capture_tree(capture.relation))
        join pg_class as child on child.oid = inhrelid and child.relkind = 'f'
        union all
        select capture.relation, key.name is not null and now.attname is null, case
            when was.value is null then format('column %I is new: %s', now.attname, case column_.treatment
                when 'plain' then 'recorded' when 'redact' then 'redacted by the built-in patterns' else column_.treatment end)
            when now.attname is null then format('%s %I is gone', case when key.name is null then 'column' else 'the key column' end, was.value)
            else format('column %I is now %I', was.value, now.attname)
        end
        from ledger.captures as capture
        cross join lateral (
            select number.attnum from pg_attribute as number where number.attrelid = capture.relation and number.attnum > 0
        ) as numbers (number)
        left join jsonb_each_text(capture.columns) as was on was.key = numbers.number::text
        left join pg_attribute as now
            on now.attrelid = capture.relation and now.attnum = numbers.number and not now.attisdropped
        left join ledger.captured_columns(capture, capture.relation) as column_ on column_.name = now.attname
        left join unnest(capture.key) as key (name) on key.name = was.value
        where now.attname is distinct from was.value
    )
    select drift.relation::text, drift.broken, drift.problem from drift
    where drift.relation = only_of or only_of is null;
end
$$;

grant execute on function ledger.capture_drift to ledger_admin, ledger_reader, ledger_projector;

create function ledger.capture_list() returns table (relation text, ledger text, policy json, backfilled boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select capture.relation::text, known.name, ledger.capture_policy(capture), capture.backfill_ended
    from ledger.captures as capture join ledger.ledgers as known using (ledger_id) order by capture.relation::text;
end
$$;

grant execute on function ledger.capture_list to ledger_admin;

-- A captured table with its partitions and the tables that inherit from it, all of which need triggers of their own: those
-- of a table fire for statements that name it.
create function ledger.capture_tree(root regclass) returns setof regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with recursive tree (relation) as (
        select oid from pg_class where oid = root
        union
        select inhrelid from pg_inherits join tree on tree.relation = inhparent
    )
    select tree.relation::regclass from tree join pg_class on pg_class.oid = tree.relation where relkind in ('r', 'p');
end
$$;

grant execute on function ledger.capture_tree to ledger_admin;

-- The triggers that capture a table has to have, on it and its partitions, and what is wrong with each; NULL if nothing.
-- definition: for format() with the name, the table and the capture's id. ORIGIN, not ALWAYS: the worker of a logical
-- replication that applies changes captured at their origin would record them again.
create function ledger.capture_triggers(root regclass) returns table (source regclass, name text, definition text, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
begin
    return query
    select tree.source, wanted.name, wanted.definition, case
        when found.oid is null then 'is missing'
        when found.tgenabled not in ('O', 'A') then 'is disabled'
        when (found.tgfoid, found.tgtype, found.tgargs, found.tgnargs, found.tgattr::text)
                <> ('ledger.capture_rows'::regproc, wanted.type, convert_to(capture.capture_id::text, 'UTF8') || '\x00', 1, '')
            or found.tgqual is not null or (found.tgoldtable, found.tgnewtable) is distinct from (wanted.old, wanted.new)
            then 'is not the one of the capture'
    end
    from ledger.captures as capture
    cross join ledger.capture_tree(root) as tree (source)
    cross join (values
        ('ledger_capture_insert', 4::int2, null::name, 'new_rows'::name,
            'create trigger %I after insert on %s referencing new table as new_rows for each statement execute function ledger.capture_rows(%L)'),
        ('ledger_capture_update', 16, 'old_rows', 'new_rows',
            'create trigger %I after update on %s referencing old table as old_rows new table as new_rows for each statement execute function ledger.capture_rows(%L)'),
        ('ledger_capture_delete', 8, 'old_rows', null,
            'create trigger %I after delete on %s referencing old table as old_rows for each statement execute function ledger.capture_rows(%L)'),
        ('ledger_capture_truncate', 34, null, null,
            'create trigger %I before truncate on %s for each statement execute function ledger.capture_rows(%L)')
    ) as wanted (name, type, old, new, definition)
    left join pg_trigger as found on found.tgrelid = tree.source and found.tgname = wanted.name
    where capture.relation = root;
end
$$;

grant execute on function ledger.capture_triggers to ledger_admin;

-- The columns of a table as a text that changes when they do.
create function ledger.columns_of(source regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select string_agg(concat_ws(' ', attnum, quote_ident(attname), atttypid, atttypmod, attcollation), ',' order by attnum)
        from pg_attribute where attrelid = source and attnum > 0 and not attisdropped
    );
end
$$;

-- An object's JSON text, in which {"$bytes": …, "$sha256": …} stands for each value of more than 1 KiB of JSON text.
create function ledger.cut(body text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select '{' || string_agg(
            to_json(name)::text || ':' || case
                when octet_length(value::text) <= 1024 then value::text
                else format('{"$bytes":%s,"$sha256":"%s"}', octet_length(value::text), encode(sha256(convert_to(value::text, 'UTF8')), 'hex'))
            end, ',' order by place
        ) || '}'
        from json_each(body::json) with ordinality as member (name, value, place)
    );
end
$$;

-- A JSON text as {"$digest": …}: its HMAC-SHA-256 (RFC 2104) with the key of ledger.digest_keys.
create function ledger.digest_of(value text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select format('{"$digest":"%s"}', encode(sha256(outer_pad || sha256(inner_pad || convert_to(value, 'UTF8'))), 'hex'))
        from ledger.digest_keys
    );
end
$$;

-- A body of a captured row that needs a closer look: with its large values cut, if it is too large. Refuses what the
-- format does not allow. side: which of before and after it returns.
create function ledger.fitted(
    key text, before text, after text, side text, actor text, actor_type text, action text, resource_type text,
    metadata json, source regclass
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    bodies text[] := array[before, after, side];
    field text;
begin
    if octet_length(concat(before, after, metadata)) > 262000 then
        bodies := array(select ledger.cut(body) from unnest(bodies) with ordinality as each (body, place) order by place);
    end if;
    if key is null then
        perform ledger.refuse_event('resource_id', 'is NULL: the key of a captured table must have a value');
    end if;
    perform ledger.check_event(
        null, actor, actor_type, action, resource_type, key, bodies[1]::json, bodies[2]::json, metadata
    );
    return bodies[3];
exception when sqlstate 'LE013' then
    get stacked diagnostics field = column_name;
    raise exception 'the change of %, key %, is not recorded: %', source, quote_nullable(left(key, 255)), sqlerrm
        using errcode = 'LE013', column = field, table = source::text;
end
$$;

-- Captures a table: keeps how, and makes the triggers where they are not as they should be. Runs with the rights of its
-- caller, who owns the table. policy: as capture/tables.py makes it.
create function ledger.install_capture(relation regclass, policy jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
    id int;
    of_enum name;
    wrong record;
begin
    if policy ->> 'condition' is not null then
        execute format('create temp table ledger_condition (like %s)', relation);
        for of_enum in
            select attname from pg_attribute join pg_type on pg_type.oid = atttypid
            where attrelid = 'pg_temp.ledger_condition'::regclass and attnum > 0 and typtype = 'e'
        loop
            execute format('alter table pg_temp.ledger_condition alter %I type text using null', of_enum);
        end loop;
        execute format('alter table pg_temp.ledger_condition add constraint condition check (%s)', policy ->> 'condition');
    end if;
    id := ledger.keep_capture(relation, policy);
    drop table if exists pg_temp.ledger_condition;
    for wrong in select * from ledger.capture_triggers(relation) where problem is not null order by source, name loop
        execute format('drop trigger if exists %I on %s', wrong.name, wrong.source);
        execute format(wrong.definition, wrong.name, wrong.source, id);
    end loop;
end
$$;

grant execute on function ledger.install_capture to ledger_admin;

-- Whether the whole text is 13 to 19 digits, with single spaces or dashes between, that pass the check of ISO/IEC 7812-1.
create function ledger.is_card_number(value text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return value ~ '^\s*[0-9](?:[ -]?[0-9]){12,18}\s*$' and (
        select sum(case when place % 2 = 1 then digit else digit * 2 / 10 + digit * 2 % 10 end) % 10 = 0
        from string_to_table(reverse(regexp_replace(value, '[^0-9]', '', 'g')), null) with ordinality as each (text, place),
            cast(text as int) as digit
    );
end
$$;

-- Keeps how far the backfill of a table is. last: NULL to leave it; ended: NULL to begin anew.
create function ledger.keep_backfill(capture_id int, last text[], ended boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update ledger.captures as known
    set backfilled = case when $3 is null then null else coalesce($2, known.backfilled) end, backfill_ended = coalesce($3, false)
    where known.capture_id = $1;
end
$$;

grant execute on function ledger.keep_backfill to ledger_admin;

-- Keeps the key of digests. Without one, a random one if there is none yet. Another key than the one that is kept is
-- refused: equal values would no longer have equal digests.
create function ledger.keep_digest_key(key text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    secret constant bytea := convert_to(
        coalesce(key, replace(concat(gen_random_uuid(), gen_random_uuid()), '-', '')), 'UTF8'
    );
    padded bytea := case when octet_length(secret) > 64 then sha256(secret) else secret end;
    pads bytea[] := '{"", ""}';
begin
    if key is not null and char_length(key) not between 16 and 64 then
        raise exception 'a digest key has 16 to 64 characters' using errcode = 'LE013';
    end if;
    padded := padded || decode(repeat('00', 64 - octet_length(padded)), 'hex');
    for place in 0 .. 63 loop
        pads[1] := pads[1] || set_byte('\x00', 0, get_byte(padded, place) # 54);
        pads[2] := pads[2] || set_byte('\x00', 0, get_byte(padded, place) # 92);
    end loop;
    insert into ledger.digest_keys (inner_pad, outer_pad) values (pads[1], pads[2]) on conflict do nothing;
    if not found and key is not null and not exists (select from ledger.digest_keys where inner_pad = pads[1]) then
        raise exception 'this database makes digests with another key than LEDGER_DIGEST_KEY' using errcode = 'LE013',
            hint = 'Another key gives other digests. Set the key that was used at first, or none.';
    end if;
end
$$;

grant execute on function ledger.keep_digest_key to ledger_admin;

-- The condition of the temporary table that install_capture makes, in Postgres' words. It will run with the rights of
-- ledger_owner, and names mean what they mean in pg_catalog. So it may use only what Postgres brings, nothing volatile, and
-- no column whose type could bring more later: a cast or an operator of a user. It is given enums as text.
create function ledger.plain_condition(relation regclass) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found record;
    stranger text;
begin
    select oid, conrelid, conbin::text as tree, pg_get_expr(conbin, conrelid) as text into strict found
    from pg_constraint where conrelid = 'pg_temp.ledger_condition'::regclass and contype = 'c';
    if exists (
        select attname, atttypid, attcollation from pg_attribute where attrelid = found.conrelid and attnum > 0 and not attisdropped
        except
        select attname, case typtype when 'e' then 'text'::regtype else atttypid end, case typtype when 'e' then 'default'::regcollation else attcollation end
        from pg_attribute join pg_type on pg_type.oid = atttypid where attrelid = relation and attnum > 0 and not attisdropped
    ) then
        raise exception 'the condition is not one on the columns of %', relation using errcode = 'LE013';
    end if;
    select quote_ident(attname) into stranger
    from pg_depend join pg_attribute as used on used.attrelid = refobjid and used.attnum = refobjsubid
    join pg_attribute as generated using (attname)
    where classid = 'pg_constraint'::regclass and objid = found.oid and refobjid = found.conrelid
        and generated.attrelid = relation and generated.attgenerated = 'v' limit 1;
    if stranger is not null then
        raise exception 'the condition uses %, which is a virtual generated column: its value is not at hand', stranger using errcode = 'LE013';
    end if;
    select coalesce(proc.oid::regprocedure::text, pg_describe_object(refclassid, refobjid, 0)) into stranger
    from pg_depend
    left join pg_proc as proc on refclassid = 'pg_proc'::regclass and proc.oid = refobjid
    where classid = 'pg_constraint'::regclass and objid = found.oid and refclassid <> 'pg_class'::regclass and refobjid >= 16384
    union all
    select proc.oid::regprocedure::text
    from regexp_matches(found.tree, ':(?:op)?funcid ([0-9]+)', 'g') as named (ids) join pg_proc as proc on proc.oid = named.ids[1]::oid
    where proc.provolatile = 'v'
    union all
    select format('%I, which is of type %s', attname, format_type(atttypid, null))
    from pg_depend join pg_attribute on attrelid = refobjid and attnum = refobjsubid
    where classid = 'pg_constraint'::regclass and objid = found.oid and refobjid = found.conrelid
        and atttypid >= 16384
    limit 1;
    if stranger is not null then
        raise exception 'the condition uses %: only types of Postgres, enums as text, and immutable and stable functions of Postgres, are allowed', stranger
            using errcode = 'LE013';
    end if;
    return found.text;
end
$$;

-- Ends the capture of a table, which may be gone; partitions that were detached since still have its triggers. Runs with
-- the rights of its caller, who owns the table.
create function ledger.remove_capture(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
    id constant int := (select capture_id from ledger.begin_backfill(relation));
    found record;
begin
    for found in
        select tgname, tgrelid::regclass as source from pg_trigger
        where tgfoid = 'ledger.capture_rows'::regproc and tgargs = convert_to(id::text, 'UTF8') || '\x00'
    loop
        execute format('drop trigger %I on %s', found.tgname, found.source);
    end loop;
    perform ledger.forget_capture(relation);
end
$$;

grant execute on function ledger.remove_capture to ledger_admin;

-- The words of a key, as capture/deny_patterns.py has them: apiKey2, API-KEY-2 and api_key_2 are api_key_2.
create function ledger.words(key text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    -- e'': a session keeps what it has once read, whatever its standard_conforming_strings was.
    key := regexp_replace(key, '([a-z])([A-Z])', e'\\1_\\2', 'g');
    key := regexp_replace(key, '([A-Z])([A-Z][a-z])', e'\\1_\\2', 'g');
    key := regexp_replace(key, '([A-Za-z])([0-9])', e'\\1_\\2', 'g');
    key := regexp_replace(key, '([0-9])([A-Za-z])', e'\\1_\\2', 'g');
    key := regexp_replace(key, e'[\\u0020-\\u002f\\u003a-\\u0040\\u005b-\\u0060\\u007b-\\u007e]+', '_', 'g');
    return lower(trim(both '_' from key));
end
$$;

-- What ledger.capture_statement makes for the columns that a table had when its capture was installed.
create table ledger.capture_statements (
    relation regclass not null,
    op text not null,
    columns text not null,
    statement text not null,
    constraint one_statement_per_op primary key (relation, op)
);

-- Which tables are captured, and how: ledger.capture_rows reads it at each statement (docs/capture.md, "Tables").
create table ledger.captures (
    capture_id int generated always as identity,
    ledger_id int not null,
    relation regclass not null,
    key text[] not null,
    action text not null,
    resource_type text not null,
    exclude text[] not null,
    redact text[] not null,
    digest text[] not null,
    allow text[] not null,
    condition text,
    full_rows boolean not null,
    no_actor text not null,
    deny text not null,
    hints text not null,
    cards boolean not null,
    columns jsonb not null,
    backfilled text[],
    backfill_ended boolean not null default false,
    constraint one_capture primary key (capture_id),
    constraint one_capture_per_relation unique (relation)
);
comment on column ledger.captures.action is 'The action of its entries; {op} is what was done.';
comment on column ledger.captures.allow is 'Words of keys that the built-in patterns do not redact.';
comment on column ledger.captures.deny is 'A regular expression found in the words of each key to be redacted.';
comment on column ledger.captures.hints is 'A regular expression found in each JSON text, reduced to letters and digits, that has such a key.';
comment on column ledger.captures.cards is 'Whether texts that are card numbers are redacted.';
comment on column ledger.captures.columns is 'The columns at the time of installation, by number: a renamed one is treated as before.';
comment on column ledger.captures.backfilled is 'The key of the last row that backfill has recorded.';

-- The key of the digests of captured columns, as HMAC uses it (RFC 2104). Nobody but ledger_owner reads it.
create table ledger.digest_keys (
    one boolean not null default true,
    inner_pad bytea not null,
    outer_pad bytea not null,
    constraint one_digest_key primary key (one),
    constraint no_other_key check (one)
);

-- How far the backfill of a table is, locked until the transaction ends. key: the names that its columns have now.
create function ledger.begin_backfill(relation regclass) returns table (capture_id int, key text[], backfilled text[], ended boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    policy ledger.captures;
begin
    select * into policy from ledger.captures as known where known.relation = $1 for update;
    if not found then
        raise exception '% is not captured', relation using errcode = 'LE013';
    end if;
    return query select policy.capture_id, array(
        select captured.name::text from ledger.captured_columns(policy, policy.relation) as captured
        where captured.place is not null order by captured.place
    ), policy.backfilled, policy.backfill_ended;
end
$$;

grant execute on function ledger.begin_backfill to ledger_admin;

create function ledger.capture_policy(capture ledger.captures) returns json
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return case when capture.capture_id is not null then
        to_jsonb(capture) - '{capture_id, ledger_id, relation, deny, hints, backfilled, backfill_ended}'::text[]
    end::json;
end
$$;

-- The trigger function of captured tables: records the changes of a statement in the outbox. Arguments: the capture's id;
-- what was done, if it is not what the trigger is for.
create function ledger.capture_rows() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set standard_conforming_strings = on
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'iso_8601' set bytea_output = 'hex' set extra_float_digits = 1
set xmlbinary = 'base64' set lc_monetary = 'C' set jit = off set enable_mergejoin = off as $$
declare
    done constant text := coalesce(tg_argv[1], case tg_op
        when 'INSERT' then 'created' when 'UPDATE' then 'updated' when 'DELETE' then 'deleted' else 'truncated'
    end);
    source constant regclass := tg_relid;
    policy ledger.captures;
    plain_policy ledger.captures;
    context constant jsonb := nullif(current_setting('ledger.context', true), '');
    actor text := nullif(context ->> 'actor', '');
    actor_type text := coalesce(nullif(context ->> 'actor_type', ''), 'user');
    metadata json;
    action text;
    id_start text;
    id_end bigint;
    by_key boolean := false;
    is_allowed boolean;
    statement text;
    recorded bigint;
begin
    if tg_op = 'INSERT' then
        if not exists (select from new_rows) then return null; end if;
    elsif tg_op = 'UPDATE' then
        if not exists (select from new_rows) and not exists (select from old_rows) then return null; end if;
        by_key := (select count(*) from old_rows) <> (select count(*) from new_rows);
    elsif tg_op = 'DELETE' then
        if not exists (select from old_rows) then return null; end if;
    end if;
    select * into policy from ledger.captures where capture_id = tg_argv[0]::int;
    if not found then
        raise exception 'the changes of % are to be captured, but how is not known', source using errcode = 'LE013',
            hint = 'Install the capture again, or drop the triggers ledger_capture_….';
    end if;
    if actor is null and policy.no_actor = 'unknown' then
        actor := 'unknown';
        actor_type := 'unknown';
    elsif actor is null and policy.no_actor = 'user' then
        actor := 'db:' || session_user;
        actor_type := 'database';
    end if;
    action := replace(policy.action, '{op}', done);
    metadata := jsonb_build_object('via', 'table:' || case when tg_nargs > 1 then policy.relation else source end)
        || case when jsonb_typeof(context -> 'metadata') = 'object' then context -> 'metadata' else '{}' end
        || jsonb_build_object('tx', pg_current_xact_id()::text);
    is_allowed := char_length(actor) between 1 and 255 and char_length(actor_type) between 1 and 64
        and char_length(metadata::text) <= 16384 and strpos(metadata::text, '\u') = 0
        and octet_length(metadata::text) - octet_length(replace(replace(metadata::text, '[', ''), '{', '')) <= 64;
    -- UUIDv7 as of ledger.new_id; within a statement they count up from random bits (RFC 9562, section 6.2, method 2).
    id_start := lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
        || overlay(substr(replace(gen_random_uuid()::text, '-', ''), 13, 5) placing '7' from 1 for 1);
    id_end := (1::bigint << 58) | (('x' || substr(replace(gen_random_uuid()::text, '-', ''), 18, 15))::bit(60)::bigint >> 3);
    if tg_op = 'TRUNCATE' then
        insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action, resource_type, resource_id, before, metadata)
        select policy.ledger_id, (id_start || to_hex(id_end))::uuid, false, clock_timestamp(), actor, actor_type, action,
            policy.resource_type, '*',
            case when is_allowed then body else ledger.fitted('*', body, null, body, actor, actor_type, action, policy.resource_type, metadata, source) end::json,
            metadata
        from (
            select json_build_object('estimated_rows', nullif(reltuples, -1)::bigint)::text as body from pg_class where oid = source
        ) as about;
    else
        plain_policy := policy;
        plain_policy.cards := false;
        if not by_key then
            select known.statement into statement from ledger.capture_statements as known
            where known.relation = source and known.op = tg_op and known.columns = ledger.columns_of(source);
        end if;
        execute coalesce(statement, ledger.capture_statement(policy, source, tg_op, by_key)) using
            policy.ledger_id, id_start, id_end, clock_timestamp(), actor, actor_type, action, policy.resource_type, metadata,
            is_allowed, policy, plain_policy, source;
    end if;
    get diagnostics recorded = row_count;
    -- As ledger.record does.
    if recorded > 0 then
        if pg_try_advisory_lock_shared(710183015, 0) then
            perform pg_advisory_unlock_shared(710183015, 0);
        else
            perform pg_notify('ledger_outbox', '');
        end if;
    end if;
    return null;
end
$$;

-- Who installs a capture makes triggers with it.
grant execute on function ledger.capture_rows to ledger_admin;

-- The statement that puts the changes of one statement into the outbox, for ledger.capture_rows. Old and new rows are
-- paired by their order: Postgres keeps both as it changes the row; or by the key, if there are not as many.
create function ledger.capture_statement(policy ledger.captures, source regclass, op text, by_key boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    place text := '#';
    befores text;
    afters text;
    differences text;
    keys text;
    has_json boolean;
    rows text;
    condition text := 'true';
begin
    while exists (select from pg_attribute where attrelid = source and attname = place) loop
        place := place || '#';
    end loop;
    select
        string_agg(case treatment when 'exclude' then null else case op when 'UPDATE' then format(
            'case when %s then %L || %s end', case when policy.full_rows then 'true' else differs end, label,
            ledger.member_expression(format('o.%I', name), type, treatment, policy)
        ) else format('%L, %s', label, ledger.member_expression(format('o.%I', name), type, treatment, policy)) end end, ', ' order by number),
        string_agg(case treatment when 'exclude' then null else case op when 'UPDATE' then format(
            'case when %s then %L || %s end', case when policy.full_rows then 'true' else differs end, label,
            ledger.member_expression(format('n.%I', name), type, treatment, policy)
        ) else format('%L, %s', label, ledger.member_expression(format('n.%I', name), type, treatment, policy)) end end, ', ' order by number),
        string_agg(differs, ' or ') filter (where treatment <> 'exclude'),
        string_agg(format('o.%1$I = n.%1$I', name), ' and ') filter (where captured.place is not null),
        bool_or(type >= 16384 or type in ('json'::regtype, 'jsonb'::regtype, 'json[]'::regtype, 'jsonb[]'::regtype))
    into befores, afters, differences, keys, has_json
    from ledger.captured_columns(policy, source) as captured,
        lateral (select ',' || to_json(captured.name)::text || ':') as named (label),
        -- By the stored value, so that 1.0 and 1.00 differ, and no operator of a user is called.
        lateral (select format(
            case when type in ('boolean'::regtype, 'smallint'::regtype, 'int'::regtype, 'bigint'::regtype, 'uuid'::regtype,
                    'date'::regtype, 'timestamptz'::regtype, 'timestamp'::regtype)
                or type = 'numeric'::regtype and modifier > 0
                or type in ('text'::regtype, 'varchar'::regtype)
                    and (select collisdeterministic from pg_collation where oid = captured."collation")
                then 'o.%1$I is distinct from n.%1$I' else 'record_image_ne(row(o.%1$I), row(n.%1$I))' end, captured.name
        )) as compared (differs);
    befores := format('''{'' || right(concat(%s), -1) || ''}''', coalesce(befores, ''''''));
    afters := format('''{'' || right(concat(%s), -1) || ''}''', coalesce(afters, ''''''));
    if policy.condition is not null then
        condition := (
            select string_agg(format('exists (select from (select %s) as this where %s)', plain.columns, policy.condition), ' or ')
            from unnest(case op when 'INSERT' then '{n}' when 'DELETE' then '{o}' else '{o, n}' end::text[]) as each,
                -- All columns, so that no name means one of the row itself, which may have another type than
                -- ledger.plain_condition saw.
                lateral (
                    select string_agg(format(
                        case when atttypid >= 16384 then 'case when num_nulls(%1$I.%2$I) = 0 then format(''%%s'', %1$I.%2$I) end as %2$I' else '%1$I.%2$I' end,
                        each, attname
                    ), ', ')
                    from pg_attribute where attrelid = source and attnum > 0 and not attisdropped
                ) as plain (columns)
        );
    end if;
    rows := case op
        when 'INSERT' then format(
            'select %s as key, null::text as before, %s as after, n.%I as place from (select *, row_number() over () as %3$I from new_rows) as n',
            ledger.key_expression('n', policy, source), afters, place)
        when 'DELETE' then format(
            'select %s as key, %s as before, null::text as after, o.%I as place from (select *, row_number() over () as %3$I from old_rows) as o',
            ledger.key_expression('o', policy, source), befores, place)
        else format(
            'select %s as key, %s as before, %s as after, o.%I as place'
            ' from (select *, row_number() over () as %4$I from old_rows) as o'
            ' %5$s join (select *, row_number() over () as %4$I from new_rows) as n on %6$s',
            ledger.key_expression('o', policy, source), befores, afters, place, case when by_key then 'left' else 'inner' end,
            case when by_key then keys else format('o.%1$I = n.%1$I', place) end)
        end || format(' where (%s)%s', condition, case when op = 'UPDATE' and policy.full_rows then format(' and (%s)', coalesce(differences, 'false')) end);
    return format(
        'insert into ledger.outbox (ledger_id, id, named, recorded_at, actor, actor_type, action, resource_type, resource_id, before, after, metadata)'
        ' select $1, ($2 || to_hex($3 + place))::uuid, false, $4, $5, $6, $7, $8, key,'
        ' case when fits then before else ledger.fitted(key, before, after, before, $5, $6, $7, $8, $9, $13) end::json,'
        ' case when fits then after else ledger.fitted(key, before, after, after, $5, $6, $7, $8, $9, $13) end::json, $9'
        ' from (select *, ($10 and octet_length(key) between 1 and 255 and coalesce(octet_length(before), 0) + coalesce(octet_length(after), 0) <= 262000 - octet_length($9::text)%s) is true as fits'
        ' from (%s offset 0) as made%s offset 0) as checked',
        case when has_json then
            ' and strpos(concat(before, after), ''\u'') = 0'
            ' and octet_length(concat(before, after)) - octet_length(replace(replace(concat(before, after), ''['', ''''), ''{'', '''')) <= 60'
        end,
        rows, case when op = 'UPDATE' and not policy.full_rows then ' where before <> ''{}'' or after <> ''{}''' end
    );
end
$$;

-- The columns of a captured table or one of its partitions, and what is done with each. A column that was renamed since
-- the installation is treated as by its old name, too. place: in the key, from 1.
create function ledger.captured_columns(policy ledger.captures, source regclass) returns table (
    number int, name name, type oid, modifier int, "collation" oid, treatment text, place int
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with known (old, now, in_key) as (
        -- Another column may have the old name now: then both are treated so, and that one is in the key.
        select was.value, column_.attname, column_.attname = was.value or bool_and(column_.attname <> was.value) over (partition by was.value)
        from jsonb_each_text(policy.columns) as was
        join pg_attribute as column_ on column_.attrelid = policy.relation and not column_.attisdropped
            and column_.attnum > 0 and (column_.attname = was.value or column_.attnum = was.key::int)
    )
    select column_.attnum::int, column_.attname, column_.atttypid, column_.atttypmod, column_.attcollation,
        case
            when names && policy.exclude or is_virtual then 'exclude'
            when names && policy.redact then 'redact'
            when names && policy.digest then 'digest'
            when words && policy.allow then 'allow'
            when exists (select from unnest(words) as word where word ~ policy.deny) then 'redact'
            else 'plain'
        end,
        (select min(array_position(policy.key, known.old)) from known where known.now = column_.attname and known.in_key)
    from pg_attribute as column_,
        lateral (select array_agg(known.old) || column_.attname::text from known where known.now = column_.attname) as of_old (names),
        lateral (select array_agg(ledger.words(each)) from unnest(names) as each) as in_words (words),
        -- Transition tables do not have the values of virtual generated columns.
        lateral (
            select exists (
                select from pg_attribute as generated
                where generated.attrelid in (source, policy.relation) and generated.attname = column_.attname and generated.attgenerated = 'v'
            )
        ) as of_kind (is_virtual)
    where column_.attrelid = source and column_.attnum > 0 and not column_.attisdropped;
end
$$;

-- Forgets how a table is captured, on the record. For ledger.remove_capture.
create function ledger.forget_capture(relation regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    old ledger.captures;
begin
    delete from ledger.captures as known where known.relation = relation returning * into old;
    if not found then
        raise exception '% is not captured', relation using errcode = 'LE013';
    end if;
    delete from ledger.capture_statements as known where known.relation in (select ledger.capture_tree(relation));
    perform ledger.note_capture('capture.removed', old.ledger_id, relation, old, null);
end
$$;

grant execute on function ledger.forget_capture to ledger_admin;

-- The SQL expression of a value's JSON text, for ledger.capture_statement. Casts that users may define are never called,
-- as the expression runs with the rights of ledger_owner: what is not Postgres' own type goes through its output function.
create function ledger.json_expression(value text, type oid, policy ledger.captures) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    base pg_type;
    element oid;
    members text;
    -- Of the parameters of the statement: the policy, and the one that lets card numbers be.
    given constant text := case when policy.cards then '$11' else '$12' end;
begin
    select * into base from pg_type where oid = type;
    while base.typtype = 'd' loop
        select * into base from pg_type where oid = base.typbasetype;
    end loop;
    element := case when base.typcategory = 'A' then base.typelem else 0 end;
    while (select typtype = 'd' from pg_type where oid = element) loop
        element := (select typbasetype from pg_type where oid = element);
    end loop;
    if base.typtype = 'c' then
        select string_agg(
            format('%L || coalesce(%s, ''null'')', format('%s%s:', case when attnum > 1 then ',' end, to_json(attname)),
                case when ledger.words(attname) ~ policy.deny and ledger.words(attname) <> all (policy.allow)
                    then quote_literal('{"$redacted":true}')
                    else ledger.json_expression(format('(%s).%I', value, attname), atttypid, policy) end),
            ' || ' order by attnum
        ) into members
        from pg_attribute where attrelid = base.typrelid and attnum > 0 and not attisdropped;
        return format('case when num_nulls(%s) = 0 then ''{'' || %s || ''}'' end', value, coalesce(members, ''''''));
    elsif base.oid in ('boolean'::regtype, 'smallint'::regtype, 'int'::regtype, 'bigint'::regtype) then
        return format('%s::text', value);
    elsif base.oid in ('json'::regtype, 'jsonb'::regtype) then
        return format(
            'case when strpos(%1$s::text, ''\'') > 0 or regexp_replace(lower(%1$s::text), ''[^a-z0-9]'', '''', ''g'') ~ (%2$s).hints'
            ' or %1$s::text ~ ''[0-9]([ -]?[0-9]){12}'' then ledger.redacted(%1$s::json, %2$s)::text else %1$s::text end',
            value, given
        );
    elsif element in ('json'::regtype, 'jsonb'::regtype) then
        return format('ledger.redacted(to_json(%s), %s)::text', value, given);
    elsif element <> 0 then
        value := case when element < 16384 then format('to_json(%s)', value)
            else format('case when num_nulls(%1$s) = 0 then to_json(format(''%%s'', %1$s)::text[]) end', value) end;
        return case when policy.cards and (element in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) or element >= 16384)
            then format('case when (%1$s)::text ~ ''[0-9]([ -]?[0-9]){12}'' then ledger.redacted(%1$s, %2$s) else %1$s end::text', value, given)
            else format('(%s)::text', value) end;
    elsif base.oid >= 16384 then
        value := format('case when num_nulls(%1$s) = 0 then format(''%%s'', %1$s) end', value);
    end if;
    if policy.cards and base.typcategory = 'S' then
        -- Not of any length: ltrim takes eight bytes a character.
        return format(
            'case when octet_length(%1$s) between 13 and 65536 and ascii(ltrim(%1$s, e'' \t\n\r\f\v'')) between 48 and 57'
            ' and ledger.is_card_number(%1$s) then ''{"$redacted":true}'' else to_json(%1$s)::text end', value
        );
    end if;
    return format('to_json(%s)::text', value);
end
$$;

-- Keeps how a table is captured, or changes it, on the record; returns the capture's id. For ledger.install_capture.
create function ledger.keep_capture(relation regclass, policy jsonb) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
#variable_conflict use_variable
declare
    caller constant name := ledger.caller();
    old ledger.captures;
    new ledger.captures;
    missing text;
begin
    if not exists (
        select from pg_class where oid = relation and relkind in ('r', 'p') and relpersistence <> 't' and pg_has_role(caller, relowner, 'usage')
    ) then
        raise exception '% is no table of %', relation, caller using errcode = 'insufficient_privilege',
            hint = 'The owner of a table, or a superuser, installs its capture.';
    elsif exists (select from pg_class where oid = relation and relnamespace = to_regnamespace('ledger')) then
        raise exception '% is the ledger''s own', relation using errcode = 'LE013';
    end if;
    select * into old from ledger.captures as known where known.relation = relation;
    new := jsonb_populate_record(null::ledger.captures, policy - 'relation');
    new.resource_type := coalesce(new.resource_type, (select relname from pg_class where oid = relation));
    new.action := coalesce(new.action, new.resource_type || '.{op}');
    if new.key = '{}' then
        new.key := array(
            select attname from pg_index cross join unnest(indkey::int2[]) with ordinality as part (number, place)
            join pg_attribute on attrelid = indrelid and attnum = number
            where indrelid = relation and indisprimary order by place
        );
    end if;
    select ledger_id into new.ledger_id from ledger.ledgers where name = policy ->> 'ledger';
    if not found then
        raise exception 'there is no ledger %', quote_nullable(policy ->> 'ledger') using errcode = 'LE012', column = 'ledger';
    end if;
    select jsonb_object_agg(attnum, attname) into new.columns
    from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped;
    select format('%s has no column %s', relation, quote_ident(each)) into missing
    from unnest(new.key || new.exclude || new.redact || new.digest) as each
    where each not in (select value from jsonb_each_text(new.columns));
    if missing is null then
        select format('the key column %s may be NULL', quote_ident(attname)) into missing
        from pg_attribute where attrelid = relation and attname = any (new.key) and not attnotnull;
    end if;
    new.relation := relation;
    if missing is null then
        select format('the key column %s is redacted, but the key is recorded: choose another key, or allow it', quote_ident(name)) into missing
        from ledger.captured_columns(new, relation) where place is not null and treatment not in ('plain', 'allow');
    end if;
    if missing is not null then
        raise exception '%', missing using errcode = 'LE013';
    elsif cardinality(new.key) = 0 then
        raise exception '% has no primary key: name the columns that identify a row', relation using errcode = 'LE013', column = 'key';
    elsif new.no_actor not in ('require', 'unknown', 'user') then
        raise exception 'no_actor is require, unknown or user' using errcode = 'LE013', column = 'no_actor';
    end if;
    perform ledger.check_event(null, 'any', 'user', replace(new.action, '{op}', 'backfilled'), new.resource_type, '*', null, null, null);
    perform '' ~ new.deny, '' ~ new.hints;
    if new.condition is not null then
        new.condition := ledger.plain_condition(relation);
    end if;
    if cardinality(new.digest) > 0 then
        perform ledger.keep_digest_key();
    end if;
    insert into ledger.captures (
        ledger_id, relation, key, action, resource_type, exclude, redact, digest, allow, condition, full_rows, no_actor,
        deny, hints, cards, columns
    ) values (
        new.ledger_id, relation, new.key, new.action, new.resource_type, new.exclude, new.redact, new.digest, new.allow,
        new.condition, new.full_rows, new.no_actor, new.deny, new.hints, new.cards, new.columns
    ) on conflict on constraint one_capture_per_relation do update set (
        ledger_id, key, action, resource_type, exclude, redact, digest, allow, condition, full_rows, no_actor, deny, hints, cards, columns
    ) = row(
        excluded.ledger_id, excluded.key, excluded.action, excluded.resource_type, excluded.exclude, excluded.redact,
        excluded.digest, excluded.allow, excluded.condition, excluded.full_rows, excluded.no_actor, excluded.deny,
        excluded.hints, excluded.cards, excluded.columns
    ) returning * into new;
    perform ledger.keep_statements(new);
    perform ledger.note_capture('capture.installed', new.ledger_id, relation, old, new);
    return new.capture_id;
end
$$;

grant execute on function ledger.keep_capture to ledger_admin;

-- Keeps the statements that capture a table and its partitions, to make them once. Not those of a table with a composite
-- type: that may change, and the columns stay.
create function ledger.keep_statements(policy ledger.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    delete from ledger.capture_statements where relation in (select ledger.capture_tree(policy.relation));
    insert into ledger.capture_statements (relation, op, columns, statement)
    select source, op, ledger.columns_of(source), ledger.capture_statement(policy, source, op, false)
    from ledger.capture_tree(policy.relation) as source cross join unnest('{INSERT, UPDATE, DELETE}'::text[]) as op
    where not exists (
        select from pg_attribute join pg_type on pg_type.oid = atttypid
        left join pg_type as base on base.oid = pg_type.typbasetype
        where attrelid = source and attnum > 0 and not attisdropped and ('c' in (pg_type.typtype, base.typtype) or base.typtype = 'd')
    );
end
$$;

-- The SQL expression of a row's key as text; NULL where a part is. Parts are joined by a comma, and commas in them escaped.
create function ledger.key_expression(row_name text, policy ledger.captures, source regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    parts text[];
begin
    select array_agg(
        case when policy.cards and treatment = 'plain' and type not in ('smallint'::regtype, 'int'::regtype, 'bigint'::regtype, 'uuid'::regtype)
            then format('case when octet_length(%1$s) between 13 and 65536 and ledger.is_card_number(%1$s) then ''{"$redacted":true}'' else %1$s end', value)
            else value end order by place
    ) into parts
    from ledger.captured_columns(policy, source), lateral (
        select case
            when type in ('smallint'::regtype, 'int'::regtype, 'bigint'::regtype, 'uuid'::regtype, 'text'::regtype, 'varchar'::regtype)
                then format('%I.%I::text', row_name, name)
            when type < 16384 then format('to_json(%I.%I) #>> ''{}''', row_name, name)
            else format('case when num_nulls(%1$I.%2$I) = 0 then format(''%%s'', %1$I.%2$I) end', row_name, name)
        end
    ) as each (value)
    where place is not null;
    if cardinality(parts) is distinct from cardinality(policy.key) then
        raise exception 'a column of the key of % is gone: its changes cannot be captured', source
            using errcode = 'LE013', hint = 'Install the capture again, with another key.';
    elsif cardinality(parts) = 1 then
        return parts[1];
    end if;
    return (
        select string_agg(format('replace(replace(%s, ''\'', ''\\''), '','', ''\,'')', part), ' || '','' || ' order by place)
        from unnest(parts) with ordinality as each (part, place)
    );
end
$$;

-- The SQL expression of what is recorded of a column, as JSON text that is never NULL.
create function ledger.member_expression(value text, type oid, treatment text, policy ledger.captures) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if treatment = 'redact' then
        return quote_literal('{"$redacted":true}');
    end if;
    policy.cards := policy.cards and treatment = 'plain';
    return format(
        case treatment when 'digest' then 'ledger.digest_of(coalesce(%s, ''null''))' else 'coalesce(%s, ''null'')' end,
        ledger.json_expression(value, type, policy)
    );
end
$$;

-- Records that the capture of a table begins, changes or ends.
create function ledger.note_capture(action text, ledger_id int, relation regclass, old ledger.captures, new ledger.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    context constant jsonb := nullif(current_setting('ledger.context', true), '');
    actor constant text := left(nullif(context ->> 'actor', ''), 255);
begin
    insert into ledger.outbox (
        ledger_id, id, named, recorded_at, actor, actor_type, action, resource_type, resource_id, before, after, metadata
    ) values (
        ledger_id, ledger.new_id(), false, clock_timestamp(), coalesce(actor, 'db:' || session_user),
        case when actor is null then 'database' else left(coalesce(nullif(context ->> 'actor_type', ''), 'user'), 64) end,
        action, 'capture', left(relation::text, 255), ledger.capture_policy(old), ledger.capture_policy(new),
        json_build_object('via', 'database', 'tx', pg_current_xact_id()::text)
    );
end
$$;

-- A JSON value without what must not be recorded, as capture/redaction.py has it; the rest stays to the letter.
create function ledger.redacted(value json, policy ledger.captures) returns json
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    -- What the format refuses anyway (check_event), and Postgres cannot take apart.
    if regexp_replace(value::text, e'\\\\\\\\|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', ' ', 'g') ~ e'\\\\u(0000|[dD][89a-fA-F])' then
        return value;
    end if;
    case json_typeof(value)
        when 'object' then
            return (
                select '{' || coalesce(string_agg(to_json(key)::text || ':' || ledger.redacted_member(words, item, policy), ',' order by place), '') || '}'
                from json_each(value) with ordinality as member (key, item, place), ledger.words(key) as words
            );
        when 'array' then
            return (
                select '[' || coalesce(string_agg(ledger.redacted(item, policy)::text, ',' order by place), '') || ']'
                from json_array_elements(value) with ordinality as element (item, place)
            );
        when 'string' then
            if policy.cards and ledger.is_card_number(value #>> '{}') then
                return '{"$redacted":true}';
            end if;
        else null;
    end case;
    return value;
end
$$;

create function ledger.redacted_member(words text, item json, policy ledger.captures) returns json
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if words = any (policy.allow) then
        policy.cards := false;
    elsif words ~ policy.deny then
        return '{"$redacted":true}';
    end if;
    return ledger.redacted(item, policy);
end
$$;

