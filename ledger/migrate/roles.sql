-- name: grant
select ledger.grant_role(%s, %s, %s);

-- name: revoke
select ledger.revoke_role(%s, %s, %s);
