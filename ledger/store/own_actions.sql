-- The ledger's own entries, each through the only function that may record it. A row of audit_logs goes in; the
-- entry that says so comes out: the same, or an earlier one.

-- name: record_own
select
    said.position, said.id, said.recorded_at, said.occurred_at, said.actor, said.actor_type, said.action,
    said.resource_type, said.resource_id, said.before::text, said.after::text, said.metadata::text,
    said.salt, said.body_hash, said.prev_hash, said.hash
from ledger.{}(
    row(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)::ledger.audit_logs
) as said;

-- name: clear_rebuilds
-- What a rebuild left behind that was killed has bodies that nothing else would erase.
select ledger.clear_rebuilds();

-- name: lock_projection
select ledger.lock_projection(%s, %s);

-- name: body_digest
select digest, matches from ledger.body_digest(%s, %s);
