-- name: note
-- Not where another worker has moved it on meanwhile, or somebody has skipped the entry. The last column: how many
-- skipped entries stand right before it.
update ledger.projections as view
set
    failing_since = case when view.failed_position = said.position then view.failing_since else now() end,
    failed_tries = said.counts + case
        when view.failed_position = said.position then least(view.failed_tries, 1000000) else 0 end,
    failed_position = said.position,
    failed_error = said.error
from (values (%s::bigint, %s::text, %s::int)) as said (position, error, counts)
where view.ledger_id = %s and view.name = %s and not view.building
    and (view.position = said.position - 1 or view.version <> %s)
    and not exists (
        select from ledger.skips as skip
        where skip.ledger_id = view.ledger_id and skip.name = view.name and skip.position = said.position
            and skip.retried is null
    )
returning view.failed_tries, (
    select count(*) from ledger.skips as skip
    where skip.ledger_id = view.ledger_id and skip.name = view.name and skip.retried is null
        and skip.position between said.position - %s and said.position - 1
)::int;

-- name: skips
select name, array_agg(position) from ledger.skips
where ledger_id = %s and name = any(%s) and retried is null group by name;
