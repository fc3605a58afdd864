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
