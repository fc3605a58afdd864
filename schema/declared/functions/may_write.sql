-- Whoever took the group itself (SET ROLE ledger_writer) may do what its login may.
create function ledger.may_write(ledger_id int, who name) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from ledger.writers as writer
        where (writer.ledger_id is null or writer.ledger_id = $1)
            and pg_has_role(case who when 'ledger_writer' then session_user else who end, writer.role::oid, 'usage')
    );
end
$$;

grant execute on function ledger.may_write to ledger_writer;
