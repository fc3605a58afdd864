-- What rebuild_tree removes: how many leaves the tiles are of, their digest, and the checkpoints of these sizes.
create function ledger.tree_stands(ledger_id int, sizes jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    leaves bigint;
    digest bytea;
    notes jsonb;
begin
    select tile.index * 256 + octet_length(tile.hashes) / 32 into leaves from ledger.tiles as tile
    where tile.ledger_id = $1 and tile.level = 0 order by tile.index desc limit 1;
    select sha256(coalesce(string_agg(sha256(tile.hashes), ''::bytea order by tile.level, tile.index), '')) into digest
    from ledger.tiles as tile where tile.ledger_id = $1;
    select jsonb_agg(checkpoint.note order by checkpoint.size, checkpoint.origin) into notes
    from ledger.checkpoints as checkpoint
    where checkpoint.ledger_id = $1 and checkpoint.size in (select jsonb_array_elements_text(sizes)::bigint);
    return jsonb_build_object(
        'leaves', coalesce(leaves, 0), 'tiles_sha256', encode(digest, 'hex'), 'checkpoints', coalesce(notes, '[]')
    );
end
$$;

grant execute on function ledger.tree_stands to ledger_admin;
