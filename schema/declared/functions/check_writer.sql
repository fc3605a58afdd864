-- With the rights of whoever inserts, so that current_user is that role, whatever was SET. One ledger a statement: for
-- more than one, move_tail refuses it.
create function ledger.check_writer() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target constant int := (select added.ledger_id from added limit 1);
begin
    if target is not null and not ledger.may_write(target, current_user) then
        perform ledger.check_write(target, current_user);
    end if;
    return null;
end
$$;
