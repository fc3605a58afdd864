create function ledger.check_write(ledger_id int, who name) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not ledger.may_write(ledger_id, who) then
        raise exception '% may not append to the ledger with the id %', who, ledger_id
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_writer USER --ledger NAME lets it.';
    end if;
end
$$;

grant execute on function ledger.check_write to ledger_writer;
