-- Row-level security for the tables of a read view, which its owner calls for them. A table without a ledger_id is left
-- to its owner alone.
create function ledger.protect_view(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regclass;
begin
    for target in
        select attrelid::regclass from pg_attribute
        where attrelid = any (select to_regclass(format('%I.%I', schema_name, name)) from unnest(tables) as name)
            and attname = 'ledger_id' and not attisdropped
    loop
        perform ledger.restrict_readers(target);
        execute format('grant select on %s to ledger_reader', target);
    end loop;
end
$$;

grant execute on function ledger.protect_view to ledger_projector;
