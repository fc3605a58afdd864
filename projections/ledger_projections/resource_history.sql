-- name: schema
-- changes is json, not jsonb: numbers keep their digits, and none is too big.
create table resource_history (
    ledger_id int not null,
    resource_type text collate "C" not null,
    resource_id text collate "C" not null,
    position bigint not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz not null,
    actor text not null,
    action text not null,
    changes json,
    primary key (ledger_id, resource_type, resource_id, position)
);
comment on table resource_history is
    'What each entry changed of its resource: [{"field", "before", "after"}]. NULL where the body was erased.';

-- name: erase
update resource_history set changes = null
where ledger_id = %s and resource_type = %s and resource_id = %s and position = %s;

-- name: history
select resource_type, resource_id, position, recorded_at, occurred_at, actor, action, changes::text
from ledger_views.resource_history
where ledger_id = %s and resource_type = %s and resource_id = %s and position > %s
order by position limit %s;
