-- What a verification reads beside the entries themselves, and what it records. {} is where entries are read from.

-- name: export_snapshot
select pg_export_snapshot();

-- name: misplaced
(select position from {} where ledger_id = %s and position < 1 order by position limit %s)
union all
(select position from {} where ledger_id = %s and position is null limit 1);

-- name: orphans
-- Goes from one ledger_id to the next by the index, however many entries each has.
with recursive present (ledger_id) as (
    select min(ledger_id) from ledger.audit_logs
    union all
    select (select min(entry.ledger_id) from ledger.audit_logs as entry where entry.ledger_id > present.ledger_id)
    from present where present.ledger_id is not null
)
select
    present.ledger_id,
    (select min(entry.position) from ledger.audit_logs as entry where entry.ledger_id = present.ledger_id)
from present
where present.ledger_id is not null
    and not exists (select from ledger.ledgers as ledger where ledger.ledger_id = present.ledger_id)
order by present.ledger_id limit 1000;

-- name: record
insert into ledger.verifications (ledger_id, first, last, head, findings) values (%s, %s, %s, %s, %s)
on conflict do nothing;
