-- Row-level security for a table: members of ledger_reader see the rows of their ledgers, those of the `unrestricted`
-- roles all rows. What they may do with the rows that they see is for grants to say. Asks once a statement which
-- ledgers those are, not once a row.
create function ledger.restrict_readers(target regclass, variadic unrestricted text[] default '{}') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    stale name;
begin
    for stale in select polname from pg_policy where polrelid = target and polname in ('readable', 'everything') loop
        execute format('drop policy %I on %s', stale, target);
    end loop;
    execute format('alter table %s enable row level security', target);
    execute format(
        'create policy readable on %s for select to ledger_reader'
        ' using (ledger_id = any (array(select readable.ledger_id from ledger.readable)))', target
    );
    if unrestricted <> '{}' then
        execute format(
            'create policy everything on %s to %s using (true) with check (true)',
            target, array_to_string(unrestricted, ', ')
        );
    end if;
end
$$;

grant execute on function ledger.restrict_readers to ledger_projector;
