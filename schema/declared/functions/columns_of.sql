-- The columns of a table as a text that changes when they do.
create function ledger.columns_of(source regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select string_agg(concat_ws(' ', attnum, quote_ident(attname), atttypid, atttypmod, attcollation), ',' order by attnum)
        from pg_attribute where attrelid = source and attnum > 0 and not attisdropped
    );
end
$$;
