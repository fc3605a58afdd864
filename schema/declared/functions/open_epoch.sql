-- One at a time: an epoch of 2^31 - 1 would be the last.
create function ledger.open_epoch(ledger_id int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    opened int;
begin
    update ledger.tails as tail set epoch = tail.epoch + 1 where tail.ledger_id = $1 returning tail.epoch into opened;
    return opened;
end
$$;
comment on function ledger.open_epoch is 'Opens the next epoch of a ledger''s stream, and returns it.';

grant execute on function ledger.open_epoch to ledger_admin;
