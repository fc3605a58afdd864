-- The Merkle tree's tiles and the signed checkpoints.

-- name: search_path
-- Whoever set this database's search_path must not decide which functions and operators are called here.
set local search_path = pg_catalog, pg_temp;

-- name: lock
-- One signer at a time extends a ledger's tree, until its transaction ends: it decides by the tiles that are there, and
-- what it has read of the tail must not be older than they are. The first number is arbitrary and ours.
select pg_advisory_xact_lock(710183013, %s);

-- name: commit
commit;

-- name: size
-- How many leaves the tiles hold.
select index * 256 + octet_length(hashes) / 32 from ledger.tiles
where ledger_id = %s and level = 0 order by index desc limit 1;

-- name: tiles
select tile.level, tile.index, tile.hashes
from unnest(%s::smallint[], %s::bigint[]) as wanted (level, index)
join ledger.tiles as tile on tile.ledger_id = %s and tile.level = wanted.level and tile.index = wanted.index;

-- name: write_tiles
insert into ledger.tiles (ledger_id, level, index, hashes)
select %s, wider.level, wider.index, wider.hashes
from unnest(%s::smallint[], %s::bigint[], %s::bytea[]) as wider (level, index, hashes)
on conflict (ledger_id, level, index) do update set hashes = excluded.hashes
where tiles.hashes <> excluded.hashes;

-- name: newest_kept
select size, root, note, signed_at from ledger.checkpoints
where ledger_id = %s and size <= %s order by size desc limit 1;

-- name: all_kept
select size, root, note, signed_at from ledger.checkpoints
where ledger_id = %s and size > %s order by size limit %s;

-- name: kept_at
select size, root, note, signed_at from ledger.checkpoints where ledger_id = %s and size = %s;

-- name: keep
insert into ledger.checkpoints (ledger_id, size, root, note) values (%s, %s, %s, %s)
on conflict (ledger_id, size) do nothing;

-- name: lock_kept
select note from ledger.checkpoints where ledger_id = %s and size = %s for update;

-- name: add_signatures
update ledger.checkpoints set note = note || %s where ledger_id = %s and size = %s;
