-- Whoever may append may record too. Whoever took a group itself (SET ROLE) may do what its login may.
create function ledger.may_record(ledger_id int, who name) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from ledger.recorders as recorder
        where (recorder.ledger_id is null or recorder.ledger_id = $1)
            and pg_has_role(case who when 'ledger_recorder' then session_user else who end, recorder.role::oid, 'usage')
    ) or ledger.may_write($1, who);
end
$$;

grant execute on function ledger.may_record to ledger_recorder;
