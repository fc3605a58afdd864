-- The columns of a captured table or one of its partitions, and what is done with each. A column that was renamed since
-- the installation is treated as by its old name, too. place: in the key, from 1.
create function ledger.captured_columns(policy ledger.captures, source regclass) returns table (
    number int, name name, type oid, modifier int, "collation" oid, treatment text, place int
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with known (old, now, in_key) as (
        -- Another column may have the old name now: then both are treated so, and that one is in the key.
        select was.value, column_.attname, column_.attname = was.value or bool_and(column_.attname <> was.value) over (partition by was.value)
        from jsonb_each_text(policy.columns) as was
        join pg_attribute as column_ on column_.attrelid = policy.relation and not column_.attisdropped
            and column_.attnum > 0 and (column_.attname = was.value or column_.attnum = was.key::int)
    )
    select column_.attnum::int, column_.attname, column_.atttypid, column_.atttypmod, column_.attcollation,
        case
            when names && policy.exclude or is_virtual then 'exclude'
            when names && policy.redact then 'redact'
            when names && policy.digest then 'digest'
            when words && policy.allow then 'allow'
            when exists (select from unnest(words) as word where word ~ policy.deny) then 'redact'
            else 'plain'
        end,
        (select min(array_position(policy.key, known.old)) from known where known.now = column_.attname and known.in_key)
    from pg_attribute as column_,
        lateral (select array_agg(known.old) || column_.attname::text from known where known.now = column_.attname) as of_old (names),
        lateral (select array_agg(ledger.words(each)) from unnest(names) as each) as in_words (words),
        -- Transition tables do not have the values of virtual generated columns.
        lateral (
            select exists (
                select from pg_attribute as generated
                where generated.attrelid in (source, policy.relation) and generated.attname = column_.attname and generated.attgenerated = 'v'
            )
        ) as of_kind (is_virtual)
    where column_.attrelid = source and column_.attnum > 0 and not column_.attisdropped;
end
$$;
