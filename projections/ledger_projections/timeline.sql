-- Collation "C": equality and prefixes are all that is asked of these columns, and bytes compare fastest.

-- name: schema
create table timeline (
    ledger_id int not null,
    position bigint not null,
    id uuid not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz not null,
    actor text collate "C" not null,
    actor_type text collate "C" not null,
    action text collate "C" not null,
    resource_type text collate "C",
    resource_id text collate "C",
    words text not null,
    -- Kept, not only indexed: phrases are checked row by row, and making it anew takes ten times as long as reading it.
    lexemes tsvector not null generated always as (to_tsvector('simple', words)) stored,
    -- With the time in it, entries of long ago are found from the newest on without looking at each row on the way.
    primary key (ledger_id, position) include (occurred_at)
);
create index timeline_by_actor on timeline (ledger_id, actor, position);
create index timeline_by_action on timeline (ledger_id, action, position);
create index timeline_by_resource on timeline (ledger_id, resource_type, resource_id, position);
create index timeline_by_time on timeline (ledger_id, occurred_at);
-- Whoever fills the pending list works it off: a short one (default 4096) keeps that pause short at the same total cost.
create index timeline_by_words on timeline using gin (lexemes) with (gin_pending_list_limit = 1024);
-- Nothing is asked of `words` that its statistics would help, and they would keep samples of erased ones.
alter table timeline alter column words set statistics 0;
comment on table timeline is 'One row an entry, to be searched. words: what full text search finds, split into words.';

-- name: erase
update timeline set words = %s where ledger_id = %s and position = %s;

-- The query of `search`: `find`, then those of the `by_` parts that were asked for, then `page`.

-- name: find
with found as (
    select position from ledger_views.timeline where ledger_id = %s

-- name: by_actor
and actor = %s

-- name: by_action
and action = %s

-- name: by_action_prefix
and action >= %s and action < %s

-- name: by_action_pattern
and action like %s

-- name: by_resource
and resource_type = %s and resource_id = %s

-- name: by_since
and occurred_at >= %s

-- name: by_until
and occurred_at < %s

-- name: by_words
and lexemes @@ websearch_to_tsquery('simple', %s)

-- name: by_position
and position < %s

-- name: page
    order by position desc limit %s
)
select
    entry.position, entry.id, entry.recorded_at, entry.occurred_at, entry.actor, entry.actor_type, entry.action,
    entry.resource_type, entry.resource_id, entry.before::text, entry.after::text, entry.metadata::text,
    entry.salt, entry.body_hash, entry.prev_hash, entry.hash
from found join ledger.audit_logs as entry on entry.ledger_id = %s and entry.position = found.position
order by entry.position desc;
