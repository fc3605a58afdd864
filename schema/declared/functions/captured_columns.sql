-- The columns of a captured table or one of its partitions, and what is done with each. A column that was renamed since
-- the installation is treated as by its old name, too. place: in the key, from 1.
create function ledger.captured_columns(policy ledger.captures, source regclass) returns table (
    number int, name name, type oid, modifier int, "collation" oid, treatment text, place int
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with known (old, now) as (
        select known.value, coalesce(same.attname, moved.attname)
        from jsonb_each_text(policy.columns) as known
        left join pg_attribute as same
            on same.attrelid = policy.relation and same.attname = known.value and same.attnum > 0 and not same.attisdropped
        left join pg_attribute as moved
            on moved.attrelid = policy.relation and moved.attnum = known.key::int and not moved.attisdropped
    )
    select column_.attnum::int, column_.attname, column_.atttypid, column_.atttypmod, column_.attcollation,
        case
            when names && policy.exclude then 'exclude'
            when names && policy.redact then 'redact'
            when names && policy.digest then 'digest'
            when words && policy.allow then 'allow'
            when exists (select from unnest(words) as word where word ~ policy.deny) then 'redact'
            else 'plain'
        end,
        (select min(array_position(policy.key, each)) from unnest(names) as each)
    from pg_attribute as column_,
        lateral (select array_agg(known.old) || column_.attname::text from known where known.now = column_.attname) as of_old (names),
        lateral (select array_agg(ledger.words(each)) from unnest(names) as each) as in_words (words)
    where column_.attrelid = source and column_.attnum > 0 and not column_.attisdropped;
end
$$;
