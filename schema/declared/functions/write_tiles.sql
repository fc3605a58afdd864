-- Writes tiles, or what they are wider by than those that are there. Raises LE020 for what the ledger's entries do not
-- make, and so for what is beyond its tail.
create function ledger.write_tiles(ledger_id int, levels smallint[], indexes bigint[], hashes bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    wider record;
    kept bytea;
begin
    -- As signers lock it (ledger/sql/tree.sql).
    perform pg_advisory_xact_lock(710183013, $1);
    for wider in
        select said.level, said.index, said.hashes from unnest($2, $3, $4) as said (level, index, hashes)
        order by said.level, said.index
    loop
        if wider.level not between 0 and 7 or wider.index not between 0 and (1::bigint << 55)
            or octet_length(wider.hashes) not between 32 and 8192 or octet_length(wider.hashes) % 32 <> 0
        then
            raise exception 'not a tile: level %, index %, % bytes', wider.level, wider.index, octet_length(wider.hashes)
                using errcode = 'LE020';
        end if;
        kept := coalesce((
            select tile.hashes from ledger.tiles as tile
            where tile.ledger_id = $1 and tile.level = wider.level and tile.index = wider.index
        ), '');
        continue when substr(kept, 1, octet_length(wider.hashes)) = wider.hashes;
        if substr(wider.hashes, 1, octet_length(kept)) <> kept then
            raise exception 'tile % of level % is there with other hashes', wider.index, wider.level
                using errcode = 'LE020';
        elsif wider.index > 0 and not exists (
            select from ledger.tiles as tile where tile.ledger_id = $1 and tile.level = wider.level
                and tile.index = wider.index - 1 and octet_length(tile.hashes) = 8192
        ) then
            raise exception 'tile % of level % would follow one that is not full', wider.index, wider.level
                using errcode = 'LE020';
        elsif ledger.make_tile(
            $1, wider.level, wider.index, octet_length(kept) / 32, octet_length(wider.hashes) / 32 - 1
        ) is distinct from substr(wider.hashes, octet_length(kept) + 1) then
            raise exception 'tile % of level % is not what the ledger''s entries make', wider.index, wider.level
                using errcode = 'LE020';
        end if;
        insert into ledger.tiles as tile (ledger_id, level, index, hashes)
        values ($1, wider.level, wider.index, wider.hashes)
        on conflict on constraint tiles_pkey do update set hashes = excluded.hashes;
    end loop;
end
$$;

grant execute on function ledger.write_tiles to ledger_projector;
