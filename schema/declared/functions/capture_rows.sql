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
