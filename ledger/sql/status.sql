-- name: ledgers
select ledger.ledger_id, ledger.name, tail.epoch, tail.position, tail.hash, tail.recorded_at
from ledger.ledgers as ledger left join ledger.tails as tail using (ledger_id) order by ledger.name;

-- name: projections
select ledger_id, name, version, building, position from ledger.projections order by ledger_id, name, building;

-- name: subscriptions
select ledger_id, name, position from ledger.subscriptions order by ledger_id, name;

-- name: verifications
select distinct on (ledger_id) ledger_id, verified_at, first, last, head, findings
from ledger.verifications order by ledger_id, verified_at desc;

-- name: waiting
-- How long the entry at this position has been there, in seconds.
select extract(epoch from clock_timestamp() - recorded_at)::float8
from ledger.entries where ledger_id = %s and position = %s;
