-- Who calls a SECURITY DEFINER function: in it, current_user is its owner.
create function ledger.caller() returns name
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return case current_setting('role') when 'none' then session_user else current_setting('role') end;
end
$$;

grant execute on function ledger.caller to ledger_projector;
