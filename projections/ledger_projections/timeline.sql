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

-- The query of `search`: `find`, then those of the `by_` parts that were asked for, then `newest`, then `page`. With
-- words, `find_words` instead of all but the last: below row-level security only a function can use their index.

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

-- name: by_position
and position < %s

-- name: newest
    order by position desc limit %s
)

-- name: find_words
with found as (
    select position from ledger.timeline_matches(
        %s, %s, actor => %s, action => %s, action_from => %s, action_to => %s, action_like => %s,
        resource_type => %s, resource_id => %s, since => %s, until => %s, before => %s, most => %s
    ) as position
)

-- name: page
-- The positions as an array: a view with a barrier takes that for its index, but no join.
select
    position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    before::text, after::text, metadata::text, salt, body_hash, prev_hash, hash
from ledger.entries where ledger_id = %s and position = any (array(select position from found))
order by position desc;
