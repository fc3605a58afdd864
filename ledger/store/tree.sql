-- The Merkle tree's tiles and the signed checkpoints.

-- name: search_path
-- Whoever set this database's search_path must not decide which functions and operators are called here.
set local search_path = pg_catalog, pg_temp;

-- name: lock
-- One signer at a time extends a ledger's tree, until its transaction ends: it decides by the tiles that are there, and
-- what it has read of the tail must not be older than they are. The first number is arbitrary and ours.
select pg_advisory_xact_lock(710183013, %s);

-- name: size
-- How many leaves the tiles hold.
select index * 256 + octet_length(hashes) / 32 from ledger.tiles
where ledger_id = %s and level = 0 order by index desc limit 1;

-- name: tiles
select tile.level, tile.index, tile.hashes
from unnest(%s::smallint[], %s::bigint[]) as wanted (level, index)
join ledger.tiles as tile on tile.ledger_id = %s and tile.level = wanted.level and tile.index = wanted.index;

-- name: write_tiles
select ledger.write_tiles(%s, %s::smallint[], %s::bigint[], %s::bytea[]);

-- name: newest_kept
-- Of one log's name, or of any.
select size, root, note, signed_at from ledger.checkpoints
where ledger_id = %s and size <= %s and origin = coalesce(%s, origin) order by size desc, signed_at limit %s;

-- name: all_kept
select size, root, note, signed_at from ledger.checkpoints
where ledger_id = %s and size > %s order by size fetch first %s rows with ties;

-- name: kept_at
select size, root, note, signed_at from ledger.checkpoints
where ledger_id = %s and size = %s and origin = coalesce(%s, origin) order by signed_at;

-- name: keep
select ledger.keep_checkpoint(%s, %s, %s, %s);

-- name: stands
select ledger.tree_stands(%s, %s::jsonb)::text;
