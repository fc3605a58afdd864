-- What a verification reads of the tree and the checkpoints that a ledger keeps, in its snapshot.

-- name: levels
select level, count(*), min(index), max(index) from ledger.tiles where ledger_id = %s group by level order by level;

-- name: last_leaves
select index, octet_length(hashes) from ledger.tiles
where ledger_id = %s and level = 0 order by index desc limit 1;

-- name: leaves
select index, hashes from ledger.tiles where ledger_id = %s and level = 0 and index between %s and %s;

-- name: tile
select hashes from ledger.tiles where ledger_id = %s and level = %s and index = %s;

-- name: kept
select size, root, note from ledger.checkpoints
where ledger_id = %s and size > %s and size <= %s order by size, origin fetch first %s rows with ties;

-- name: has_kept
select exists (select from ledger.checkpoints where ledger_id = %s);

-- name: rebuilds
select position, actor from {}
where ledger_id = %s and resource_type = %s and resource_id = %s and action = %s order by position desc limit %s;
