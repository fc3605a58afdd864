-- As lock_plain, for a worker that has more rights than the group whose tables these are, in the schema that is the
-- search_path; a worker that has no more needs no protection from its own.
create function ledger.lock_work(schema_name text, tables text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regclass;
    problem text;
begin
    if not pg_has_role(session_user, 'ledger_owner', 'member') then
        return;
    end if;
    for target in
        select class.oid::regclass from pg_class as class
        where class.relnamespace = to_regnamespace(quote_ident(schema_name)) and class.relname = any (tables)
    loop
        problem := case when (select relkind from pg_class where oid = target) = 'r' then '' else 'it is no table' end;
        if problem = '' then
            execute format('lock table %s in row exclusive mode', target);
            problem := ledger.not_plain(target);
        end if;
        exit when problem <> '';
    end loop;
    if coalesce(problem, '') = '' then
        -- A better match for what a statement names than Postgres' own.
        select format('%s stands beside it', what) into problem from (
            select 'function ' || oid::regprocedure, proowner from pg_proc
            where pronamespace = to_regnamespace(quote_ident(schema_name))
            union all
            select 'operator ' || oid::regoperator, oprowner from pg_operator
            where oprnamespace = to_regnamespace(quote_ident(schema_name))
        ) as beside (what, owner)
        where not exists (select from pg_roles where oid = owner and (rolsuper or rolname = 'ledger_owner'))
        limit 1;
        target := null;
    end if;
    if problem <> '' then
        raise exception 'read views in % cannot be trusted by %: %', coalesce(target::text, schema_name), session_user,
            problem using errcode = 'LE030',
            hint = 'Work as a user that has ledger_projector and no more, or find out who made it and drop it.';
    end if;
end
$$;

grant execute on function ledger.lock_work to ledger_projector;
