-- The root of the tree when it had so many leaves; NULL where the tiles do not reach so far.
create function ledger.tree_root(ledger_id int, size bigint) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    -- From the lowest level up, the partial tile and the root of what is right of it.
    right_of bytea := '';
    hashes bytea;
    width int;
begin
    if size = 0 then
        return sha256('');
    end if;
    for height in 0..7 loop
        width := (size >> (8 * height)) % 256;
        continue when width = 0;
        select substr(tile.hashes, 1, 32 * width) into hashes from ledger.tiles as tile
        where tile.ledger_id = $1 and tile.level = height and tile.index = size >> (8 * (height + 1));
        if octet_length(hashes) is distinct from 32 * width then
            return null;
        end if;
        right_of := ledger.merkle_root(hashes || right_of);
    end loop;
    return right_of;
end
$$;
