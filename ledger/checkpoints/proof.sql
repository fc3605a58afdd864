-- name: position
select position from ledger.entries where ledger_id = %s and id = %s;
