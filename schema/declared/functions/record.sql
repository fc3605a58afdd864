-- Records an event in the caller's transaction: it is appended to the ledger, soon, if and only if that commits. Takes no
-- lock that another writer waits for. Returns the id that the entry will have. docs/capture.md describes the arguments.
-- In one function, because it runs once an event: each that it called would cost as much as half of the INSERT.
create function ledger.record(
    ledger text, actor text default null, action text default null,
    resource_type text default null, resource_id text default null,
    before json default null, after json default null, metadata json default null,
    id uuid default null, idempotency_key text default null,
    actor_type text default null, occurred_at timestamptz default null
) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    context jsonb;
    target int;
    entry_id uuid := id;
    texts constant text := concat(before, after, metadata);
    -- The transaction gets its id before the INSERT takes a seq: ledger.pass_over_sealed relies on it. On a standby it
    -- gets none, and the INSERT is refused.
    transaction_id constant xid8 := case when pg_is_in_recovery() then null else pg_current_xact_id() end;
begin
    -- For most callers; `recordable` asks for the others too (a role that was set, a writer), and refuses.
    select known.ledger_id into target from ledger.ledgers as known, ledger.recorders as recorder
    where known.name = $1 and coalesce(recorder.ledger_id, known.ledger_id) = known.ledger_id
        and current_setting('role') = 'none' and pg_has_role(session_user, recorder.role, 'usage');
    if target is null then
        target := ledger.recordable($1);
    end if;
    if actor is null then
        context := nullif(current_setting('ledger.context', true), '');
        actor := context ->> 'actor';
        actor_type := coalesce(actor_type, context ->> 'actor_type');
    end if;
    actor_type := coalesce(actor_type, 'user');
    -- The first that is not kept is named by check_event; nearly always all are.
    if (
        char_length(actor) between 1 and 255 and char_length(actor_type) between 1 and 64
        and char_length(action) between 1 and 128 and not action ^@ 'ledger.'
        and (resource_type is null) = (resource_id is null)
        and char_length(coalesce(resource_type, '-')) between 1 and 64
        and char_length(coalesce(resource_id, '-')) between 1 and 255
        and occurred_at is null and idempotency_key is null
        and octet_length(texts) <= 262000 and strpos(texts, e'\\u') = 0
        and octet_length(texts) - octet_length(replace(replace(texts, '[', ''), '{', '')) <= 64
    ) is not true then
        perform ledger.check_event(
            occurred_at, actor, actor_type, action, resource_type, resource_id, before, after, metadata
        );
        if idempotency_key is not null then
            if id is not null then
                perform ledger.refuse_event('idempotency_key', 'give an id or an idempotency_key, not both');
            end if;
            entry_id := ledger.id_of_key(idempotency_key);
        end if;
    end if;
    insert into ledger.outbox (
        ledger_id, id, named, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
        before, after, metadata
    ) values (
        target,
        -- As ledger.new_id makes it: a call of it would take a fifth of the INSERT.
        coalesce(entry_id, encode(
            overlay(
                set_bit(set_bit(uuid_send(gen_random_uuid()), 52, 1), 53, 1)
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1
            ),
            'hex'
        )::uuid),
        entry_id is not null, clock_timestamp(), occurred_at,
        actor, actor_type, action, resource_type, resource_id, before, after, metadata
    ) returning outbox.id into entry_id;
    -- A sealer that has nothing to do holds this lock (capture/sealer.py): it waits for a notification. One that is at
    -- work looks again by itself; to notify it at each commit would have the commits wait for one another.
    if pg_try_advisory_lock_shared(710183015, 0) then
        perform pg_advisory_unlock_shared(710183015, 0);
    else
        perform pg_notify('ledger_outbox', '');
    end if;
    return entry_id;
end
$$;
comment on function ledger.record is 'Records an event, which is appended to the ledger if this transaction commits; returns its id.';

grant execute on function ledger.record to ledger_recorder, ledger_writer;
