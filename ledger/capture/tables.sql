-- name: install
select ledger.install_capture(%s::regclass, %s::jsonb);

-- name: digest_key
select ledger.keep_digest_key(%s);

-- name: remove
select ledger.remove_capture(%s::regclass);

-- name: list
select relation, ledger, policy::text, backfilled from ledger.capture_list();

-- name: drift
select relation, broken, problem from ledger.capture_drift(%s::regclass);

-- name: backfill
select ledger.backfill_capture(%s::regclass, %s);

-- name: backfill_again
select ledger.keep_backfill(capture_id, null, null) from ledger.begin_backfill(%s::regclass);
