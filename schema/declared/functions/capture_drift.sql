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
