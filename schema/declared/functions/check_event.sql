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
