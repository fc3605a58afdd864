-- As lock_plain, for a worker that has more rights than the group whose tables these are, in the schema that will be the
-- search_path; a worker that has no more needs no protection from its own.
create function ledger.lock_work(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    place constant regnamespace := to_regnamespace(quote_ident(schema_name));
    there regclass[];
    problem text;
begin
    if not pg_has_role(session_user, 'ledger_owner', 'member') then
        return;
    end if;
    there := array(select oid::regclass from pg_class where relnamespace = place and relname = any (tables));
    if there <> '{}' then
        execute format('lock table %s in row exclusive mode', array_to_string(there, ', '));
        problem := ledger.not_plain(variadic there);
    end if;
    if problem is null then
        -- A better match for what a statement names than Postgres' own.
        select format('%s stands beside it', what) into problem from (
            select 'function ' || oid::regprocedure, proowner from pg_proc where pronamespace = place
            union all
            select 'operator ' || oid::regoperator, oprowner from pg_operator where oprnamespace = place
        ) as beside (what, owner)
        where not exists (select from pg_roles where oid = owner and (rolsuper or rolname = 'ledger_owner'))
        limit 1;
    end if;
    if problem is not null then
        raise exception 'read views in % cannot be trusted by %: %', place, session_user, problem using errcode = 'LE030',
            hint = 'Work as a user that has ledger_projector and no more, or find out who made it so.';
    end if;
end
$$;

grant execute on function ledger.lock_work to ledger_projector;
