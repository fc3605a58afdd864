-- name: position
select position from ledger.audit_logs where ledger_id = %s and id = %s;
