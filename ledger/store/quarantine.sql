-- Entries that do not hold, and the records by which work goes on past them. {} is the table of entries, or the view for
-- whoever may not read that. Times are numbers in text: a forged one may be more than any datetime can hold.

-- name: stands
-- What stands at positions, in order.
select {as_numbers}
from {} where ledger_id = %s and position between %s and %s order by position;

-- name: marks
-- The records about these positions, in order.
select {as_numbers}
from {}
where ledger_id = %s and resource_type = 'ledger.entry' and resource_id = any(%s::text[])
    and action = 'ledger.entry_quarantined'
order by position;

-- name: all_marks
select {as_numbers}
from {} where ledger_id = %s and resource_type = 'ledger.entry' and action = 'ledger.entry_quarantined'
order by position;

-- name: tail
select position, hash from ledger.tails where ledger_id = %s;

-- name: is_chained
-- Is this the hash of the entry at a position: as it stands there, or as the entry after it or the tail has it?
select exists (
    select from ledger.entries where ledger_id = %s and position = %s and hash = %s
) or exists (
    select from ledger.entries where ledger_id = %s and position = %s and prev_hash = %s
) or exists (
    select from ledger.tails where ledger_id = %s and position = %s and hash = %s
);

-- name: suspect
select ledger.suspect_entry(%s, %s);

-- name: suspects
select ledger_id, position from ledger.suspects order by ledger_id, position;

-- name: refusal
select ledger.note_refusal(%s, %s, %s);

-- name: refusals
select ledger_id, origin, problem, since from ledger.refusals order by ledger_id, origin;

-- name: erasure
select position from ledger.entries
where ledger_id = %s and resource_type = 'ledger.entry' and resource_id = %s and action = 'ledger.entry_erased'
    and position > %s
limit 1;
