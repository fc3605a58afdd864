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
