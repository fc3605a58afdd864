-- name: schema
-- state is json, not jsonb: numbers keep their digits, and none is too big.
create table resource_state (
    ledger_id int not null,
    resource_type text collate "C" not null,
    resource_id text collate "C" not null,
    state json,
    deleted boolean not null,
    entries bigint not null,
    first_position bigint not null,
    last_position bigint not null,
    action text not null,
    actor text not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null,
    primary key (ledger_id, resource_type, resource_id)
) with (fillfactor = 80);
comment on table resource_state is
    'What each resource is now. action, actor and the times are those of the newest entry about it.';

-- Rows go in as one JSON text, which takes a tenth of the time of arrays in the client.

-- name: load
select resource_type, resource_id, state::text, deleted, entries, first_position
from json_to_recordset(%s::json) as touched (resource_type text, resource_id text)
join resource_state using (resource_type, resource_id)
where ledger_id = %s;

-- name: save
insert into resource_state (
    ledger_id, resource_type, resource_id, state, deleted, entries,
    first_position, last_position, action, actor, occurred_at, recorded_at
)
select
    %s, resource_type, resource_id, state_json::json, deleted, entries,
    first_position, last_position, action, actor, occurred_at, recorded_at
from json_to_recordset(%s::json) as changed (
    resource_type text, resource_id text, state_json text, deleted boolean, entries bigint,
    first_position bigint, last_position bigint, action text, actor text,
    occurred_at timestamptz, recorded_at timestamptz
)
on conflict (ledger_id, resource_type, resource_id) do update set
    state = excluded.state,
    deleted = excluded.deleted,
    entries = excluded.entries,
    last_position = excluded.last_position,
    action = excluded.action,
    actor = excluded.actor,
    occurred_at = excluded.occurred_at,
    recorded_at = excluded.recorded_at;

-- name: erase
update resource_state set state = %s::json, deleted = %s
where ledger_id = %s and resource_type = %s and resource_id = %s;

-- name: state
select
    resource_type, resource_id, state::text, deleted, entries,
    first_position, last_position, action, actor, occurred_at, recorded_at
from ledger_views.resource_state where ledger_id = %s and resource_type = %s and resource_id = %s;
