-- Locks tables of read views for the transaction, and raises LE030 unless they are plain. For whoever reads them.
create function ledger.lock_plain(variadic tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
    target regclass;
    problem text;
begin
    foreach name in array tables loop
        target := to_regclass(format('ledger_views.%I', name));
        if target is null then
            raise exception 'relation "ledger_views.%" does not exist', name using errcode = 'undefined_table';
        end if;
        problem := case when (select relkind from pg_class where oid = target) = 'r' then '' else 'it is no table' end;
        if problem = '' then
            -- The weaker lock, all that a reader may take, lets indexes come.
            execute format('lock table %s in %s mode', target,
                case when pg_has_role(current_user, 'ledger_projector', 'usage') then 'row exclusive' else 'access share' end);
            problem := case when to_regclass(format('ledger_views.%I', name)) is distinct from target then 'it was replaced'
                else ledger.not_plain(target) end;
        end if;
        if problem <> '' then
            raise exception 'the read view % cannot be trusted: %', name, problem using errcode = 'LE030',
                hint = 'Find out who made it; replay the projection.';
        end if;
    end loop;
end
$$;

grant execute on function ledger.lock_plain to ledger_reader, ledger_projector;
