-- What a process needs to share the snapshot of another.

-- name: import_snapshot
-- The snapshot's name comes from export_snapshot; this statement takes no parameters.
set transaction snapshot '{}';
