-- Notes an entry at which a worker stopped, for `status` to look at.
create function ledger.suspect_entry(ledger_id int, entry_position bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into ledger.suspects (ledger_id, position) values ($1, entry_position)
    on conflict on constraint suspects_pkey do update set noted_at = clock_timestamp();
    delete from ledger.suspects as old
    where old.ledger_id = $1 and old.position not in (
        select newer.position from ledger.suspects as newer
        where newer.ledger_id = $1 order by newer.noted_at desc limit 100
    );
end
$$;
grant execute on function ledger.suspect_entry to ledger_projector;
