-- Runs once a statement, as its owner: a writer needs INSERT on audit_logs and no right on the tail's columns.
-- It reads the new rows and the tail in separate statements, never joined, so that the schema also runs on Citus.
-- It does not wait for the tail: who inserts without holding it, while another does, comes too late anyway; and the
-- other may be waiting for the position that was inserted here, which would be a deadlock.
create function ledger.move_tail() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1ms' as $$
declare
    first record;
    last record;
    tail record;
    last_position bigint;
    wrong bigint;
    tolerance constant interval := '5 seconds';
begin
    select
        ledger_id, position, prev_hash, hash, recorded_at, salt is null as bare,
        (select count(*) from (select from added limit 2) as two) > 1 as many
    into first from added limit 1;
    if not found then
        return null;
    end if;
    last := first;
    if first.bare then
        raise exception 'entry % has no salt: only an erasure may remove a body', first.position using errcode = 'LE002';
    end if;

    if first.many then
        -- In the order in which they were written, which must be that of their positions.
        select
            max(link.position),
            min(link.position) filter (
                where link.position <> link.position_before + 1 or link.prev_hash <> link.hash_before
                    or link.recorded_at < link.recorded_before or link.ledger_id <> first.ledger_id or link.bare
            )
        into last_position, wrong
        from (
            select
                ledger_id, position, prev_hash, recorded_at, salt is null as bare,
                lag(position) over () as position_before,
                lag(hash) over () as hash_before,
                lag(recorded_at) over () as recorded_before
            from added
        ) as link;
        if wrong is not null then
            raise exception 'entry % does not continue the entry before it in the same statement', wrong
                using errcode = 'LE002', hint = 'One ledger a statement; positions, prev_hash and recorded_at in order; a salt in each.';
        end if;
        select ledger_id, position, hash, recorded_at into last from added where position = last_position;
    end if;
    if first.recorded_at < statement_timestamp() - tolerance then
        raise exception 'entry % says it was recorded at %, but the statement came at %',
            first.position, first.recorded_at, statement_timestamp() using errcode = 'LE003';
    end if;

    -- Locks the tail until the transaction ends: no other entry of this ledger can come between.
    update ledger.tails
    set position = last.position, hash = last.hash, recorded_at = last.recorded_at
    where ledger_id = last.ledger_id
        and position = first.position - 1
        and hash = first.prev_hash
        and recorded_at <= first.recorded_at
        -- A tail that is ahead of a clock set back may be repeated, but not run further ahead.
        and last.recorded_at <= greatest(recorded_at, clock_timestamp() + tolerance);
    if found then
        return null;
    end if;

    select position, hash, recorded_at into tail from ledger.tails where ledger_id = last.ledger_id;
    if tail is null then
        raise exception 'no ledger has the id %', last.ledger_id using errcode = 'LE001';
    elsif first.position <= tail.position then
        raise exception 'a fork: entry % is there already, ledger % stands at %', first.position, last.ledger_id, tail.position
            using errcode = 'LE001';
    elsif first.position > tail.position + 1 then
        raise exception 'a gap: entry % would follow entry % of ledger %', first.position, tail.position, last.ledger_id
            using errcode = 'LE001';
    elsif first.prev_hash <> tail.hash then
        raise exception 'a wrong link: prev_hash of entry % is not the hash of entry % of ledger %',
            first.position, tail.position, last.ledger_id using errcode = 'LE001';
    elsif first.recorded_at < tail.recorded_at then
        raise exception 'time runs back: entry % says %, entry % of ledger % was recorded at %',
            first.position, first.recorded_at, tail.position, last.ledger_id, tail.recorded_at using errcode = 'LE001';
    end if;
    raise exception 'entry % says it was recorded at %, ahead of this database''s clock (%)',
        last.position, last.recorded_at, clock_timestamp() using errcode = 'LE003';
end
$$;
