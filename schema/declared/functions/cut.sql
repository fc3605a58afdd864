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
