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
