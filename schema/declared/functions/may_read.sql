create function ledger.may_read(ledger_id int, who name) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from ledger.readers as reader
        where (reader.ledger_id is null or reader.ledger_id = $1) and pg_has_role(who, reader.role::oid, 'usage')
    );
end
$$;

grant execute on function ledger.may_read to ledger_projector;
