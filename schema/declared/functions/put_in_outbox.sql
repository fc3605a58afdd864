-- Puts an event into the outbox. Refuses what the format does not allow, naming the field, and wakes the sealer.
create function ledger.put_in_outbox(
    ledger_id int, id uuid, named boolean, occurred_at timestamptz, actor text, actor_type text, action text,
    resource_type text, resource_id text, before json, after json, metadata json
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    texts constant text := concat(before, after, metadata);
begin
    -- The first that is not kept is named below; nearly always all are.
    if (
        char_length(actor) between 1 and 255 and char_length(actor_type) between 1 and 64
        and char_length(action) between 1 and 128 and not action ^@ 'ledger.'
        and (resource_type is null) = (resource_id is null)
        and char_length(coalesce(resource_type, '-')) between 1 and 64
        and char_length(coalesce(resource_id, '-')) between 1 and 255
        and (
            occurred_at is null
            or occurred_at >= to_timestamp(-62135596800) and occurred_at < to_timestamp(253402300800)
        )
        and octet_length(texts) + 4 * num_nulls(before, after, metadata) <= 262070
        and strpos(texts, '\u') = 0
        and octet_length(texts) - octet_length(replace(replace(texts, '[', ''), '{', '')) <= 64
    ) is not true then
        perform ledger.check_event(
            occurred_at, actor, actor_type, action, resource_type, resource_id, before, after, metadata
        );
    end if;
    insert into ledger.outbox (
        ledger_id, id, named, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
        before, after, metadata
    ) values ($1, $2, $3, clock_timestamp(), $4, $5, $6, $7, $8, $9, $10, $11, $12);
    -- A sealer that has nothing to do holds this lock (capture/sealer.py): it waits for a notification. One that is at
    -- work looks again by itself; to notify it at each commit would have the commits wait for one another.
    if pg_try_advisory_lock_shared(710183015, 0) then
        perform pg_advisory_unlock_shared(710183015, 0);
    else
        perform pg_notify('ledger_outbox', '');
    end if;
end
$$;
