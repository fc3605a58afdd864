-- Locks tables of read views for the transaction, and raises LE030 unless they are plain. For whoever reads them.
create function ledger.lock_plain(variadic tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    names constant text[] := array(select format('ledger_views.%I', name) from unnest(tables) as name);
    problem text;
begin
    -- The weaker lock, all that a reader may take, lets indexes come. Of a view this locks what it reads, and runs nothing.
    execute format('lock table %s in %s mode', array_to_string(names, ', '),
        case when pg_has_role(current_user, 'ledger_projector', 'usage') then 'row exclusive' else 'access share' end);
    problem := ledger.not_plain(variadic names::regclass[]);
    if problem is not null then
        raise exception 'a read view cannot be trusted: %', problem using errcode = 'LE030',
            hint = 'Find out who made it so; replay the projection.';
    end if;
end
$$;

grant execute on function ledger.lock_plain to ledger_reader, ledger_projector;
