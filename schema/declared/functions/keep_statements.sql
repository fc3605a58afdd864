-- Keeps the statements that capture a table and its partitions, to make them once. Not those of a table with a composite
-- type: that may change, and the columns stay.
create function ledger.keep_statements(policy ledger.captures) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    delete from ledger.capture_statements where relation in (select ledger.capture_tree(policy.relation));
    insert into ledger.capture_statements (relation, op, columns, statement)
    select source, op, ledger.columns_of(source), ledger.capture_statement(policy, source, op, false)
    from ledger.capture_tree(policy.relation) as source cross join unnest('{INSERT, UPDATE, DELETE}'::text[]) as op
    where not exists (
        select from pg_attribute join pg_type on pg_type.oid = atttypid
        left join pg_type as base on base.oid = pg_type.typbasetype
        where attrelid = source and attnum > 0 and not attisdropped and ('c' in (pg_type.typtype, base.typtype) or base.typtype = 'd')
    );
end
$$;
