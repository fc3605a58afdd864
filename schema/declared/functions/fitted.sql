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
