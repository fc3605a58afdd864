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
