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
