-- What own entries are compared with. {} is where entries are read from.

-- name: standing
-- What was held and left out at a position, as the entries that began it.
select placed, 'ledger.hold_placed', resource_type, resource_id from ledger.holds
where ledger_id = %s and %s between placed + 1 and coalesce(released, 9223372036854775807)
union all
select skipped, 'ledger.entry_skipped', 'ledger.skip', name || ':' || position from ledger.skips
where ledger_id = %s and %s between skipped + 1 and coalesce(retried, 9223372036854775807);

-- name: first_erasures
-- The first erasure of each of these entries, after that entry.
select resource_id, min(position) filter (where position > resource_id::bigint) from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
group by resource_id;

-- name: targets
select position, action, resource_type, resource_id, salt is not null from {}
where ledger_id = %s and position = any(%s::bigint[]);

-- name: false_marks
-- What stands in the tables of legal holds and of skips, and no entries say.
with kept (what, resource_type, resource_id, began, ended, begins, ends) as (
    select 'ledger.holds', resource_type, resource_id, placed, released, 'ledger.hold_placed', 'ledger.hold_released'
    from ledger.holds where ledger_id = %s
    union all
    select 'ledger.skips', 'ledger.skip', name || ':' || position, skipped, retried,
        'ledger.entry_skipped', 'ledger.entry_retried'
    from ledger.skips where ledger_id = %s
)
select kept.what, kept.began from kept
where not (
    exists (
        select from {} as entry
        where entry.ledger_id = %s and entry.position = kept.began and entry.action = kept.begins
            and entry.resource_type = kept.resource_type and entry.resource_id = kept.resource_id
    )
    and (kept.ended is null or exists (
        select from {} as entry
        where entry.ledger_id = %s and entry.position = kept.ended and entry.action = kept.ends
            and entry.resource_type = kept.resource_type and entry.resource_id = kept.resource_id
    ))
)
order by kept.began limit %s;

-- name: lost_marks
-- What these entries say of legal holds and of skips, and the tables do not.
select said.position, case when said.action ^@ 'ledger.hold_' then 'ledger.holds' else 'ledger.skips' end
from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) as said (position, action, resource_type, resource_id)
where not exists (
    select from ledger.holds as hold
    where hold.ledger_id = %s and hold.resource_type = said.resource_type and hold.resource_id = said.resource_id
        and said.position = case said.action
            when 'ledger.hold_placed' then hold.placed
            when 'ledger.hold_released' then hold.released
        end
) and not exists (
    select from ledger.skips as skip
    where skip.ledger_id = %s and said.resource_type = 'ledger.skip'
        and said.resource_id = skip.name || ':' || skip.position
        and said.position = case said.action
            when 'ledger.entry_skipped' then skip.skipped
            when 'ledger.entry_retried' then skip.retried
        end
);
