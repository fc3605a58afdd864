create function ledger.grow_tile() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if octet_length(new.hashes) > octet_length(old.hashes)
        and substr(new.hashes, 1, octet_length(old.hashes)) = old.hashes
    then
        return new;
    end if;
    raise exception 'UPDATE on ledger.tiles is refused: tile % of level % may only grow', old.index, old.level
        using errcode = 'LE004';
end
$$;
