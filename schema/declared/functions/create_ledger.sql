-- With the owner's rights: an admin has none on the tables.
create function ledger.create_ledger(ledger_name text) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id int;
begin
    insert into ledger.ledgers (name) values (ledger_name)
    on conflict on constraint one_ledger_per_name do nothing
    returning ledger_id into new_id;
    if new_id is not null then
        insert into ledger.tails (ledger_id) values (new_id);
    end if;
    return new_id;
end
$$;
comment on function ledger.create_ledger is 'The new ledger''s id, or null where the name is taken.';

grant execute on function ledger.create_ledger to ledger_admin;
