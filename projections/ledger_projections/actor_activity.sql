-- name: schema
create table actor_activity (
    ledger_id int not null,
    actor text collate "C" not null,
    day date not null,
    action text collate "C" not null,
    entries bigint not null,
    first_position bigint not null,
    last_position bigint not null,
    first_occurred_at timestamptz not null,
    last_occurred_at timestamptz not null,
    primary key (ledger_id, actor, day, action)
) with (fillfactor = 80);
create index actor_activity_by_day on actor_activity (ledger_id, day);
comment on table actor_activity is 'How often each actor did what on each day (of occurred_at, UTC).';

-- Rows go in as one JSON text, which takes a tenth of the time of arrays in the client.

-- name: add
insert into actor_activity (
    ledger_id, actor, day, action, entries, first_position, last_position, first_occurred_at, last_occurred_at
)
select %s, actor, day, action, entries, first_position, last_position, first_occurred_at, last_occurred_at
from json_to_recordset(%s::json) as added (
    actor text, day date, action text, entries bigint, first_position bigint, last_position bigint,
    first_occurred_at timestamptz, last_occurred_at timestamptz
)
on conflict (ledger_id, actor, day, action) do update set
    entries = actor_activity.entries + excluded.entries,
    last_position = excluded.last_position,
    first_occurred_at = least(actor_activity.first_occurred_at, excluded.first_occurred_at),
    last_occurred_at = greatest(actor_activity.last_occurred_at, excluded.last_occurred_at);

-- name: of_actor
select actor, day, action, entries, first_position, last_position, first_occurred_at, last_occurred_at
from ledger_views.actor_activity where ledger_id = %s and actor = %s
order by day desc, entries desc, action limit %s;

-- name: of_all
select actor, day, action, entries, first_position, last_position, first_occurred_at, last_occurred_at
from ledger_views.actor_activity where ledger_id = %s
order by day desc, entries desc, actor, action limit %s;
