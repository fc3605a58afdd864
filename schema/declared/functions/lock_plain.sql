-- Locks tables of read views for the transaction, and raises LE030 unless they are plain. For whoever reads them.
create function ledger.lock_plain(variadic tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
    problem text;
begin
    foreach name in array tables loop
        -- The weaker lock, all that a reader may take, lets indexes come. Of a view this locks what it reads, and runs
        -- nothing.
        execute format('lock table ledger_views.%I in %s mode', name,
            case when pg_has_role(current_user, 'ledger_projector', 'usage') then 'row exclusive' else 'access share' end);
        problem := ledger.not_plain(to_regclass(format('ledger_views.%I', name)));
        if problem <> '' then
            raise exception 'the read view % cannot be trusted: %', name, problem using errcode = 'LE030',
                hint = 'Find out who made it; replay the projection.';
        end if;
    end loop;
end
$$;

grant execute on function ledger.lock_plain to ledger_reader, ledger_projector;
