-- The ledger's own entries, each through the only function that may record it. A row of audit_logs goes in; the
-- entry that says so comes out: the same, or an earlier one.

-- name: record_own
select {as_entry}
from ledger.{}(row({row})::ledger.audit_logs);

-- name: clear_rebuilds
-- What a rebuild left behind that was killed has bodies that nothing else would erase.
select ledger.clear_rebuilds();

-- name: lock_projection
select ledger.lock_projection(%s, %s);

-- name: body_digest
select digest, matches from ledger.body_digest(%s, %s);
