create function ledger.add_signatures() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.note ^@ old.note then
        return new;
    end if;
    raise exception 'UPDATE on ledger.checkpoints is refused: signatures may only be added to the checkpoint of size %',
        old.size using errcode = 'LE004';
end
$$;
