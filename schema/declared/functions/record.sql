-- Records an event in the caller's transaction: it is appended to the ledger, soon, if and only if that commits. Takes no
-- lock that another writer waits for. Returns the id that the entry will have. docs/capture.md describes the arguments.
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
    target int;
    context jsonb;
    entry_id uuid := id;
begin
    select known.ledger_id into target from ledger.ledgers as known where known.name = $1;
    if target is null then
        raise exception 'there is no ledger %', coalesce(quote_literal($1), 'NULL')
            using errcode = 'LE012', column = 'ledger', hint = 'auditledger create-ledger NAME makes it.';
    elsif not ledger.may_record(target, ledger.caller()) then
        raise exception '% may not record in ledger %', ledger.caller(), quote_literal($1)
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_recorder USER lets it.';
    end if;
    if actor is null then
        context := nullif(current_setting('ledger.context', true), '');
        actor := context ->> 'actor';
        actor_type := coalesce(actor_type, context ->> 'actor_type');
    end if;
    if idempotency_key is not null then
        if id is not null then
            perform ledger.refuse_event('idempotency_key', 'give an id or an idempotency_key, not both');
        end if;
        entry_id := ledger.id_of_key(idempotency_key);
    elsif id is null then
        entry_id := ledger.new_id();
    end if;
    perform ledger.put_in_outbox(
        target, entry_id, id is not null or idempotency_key is not null, occurred_at, actor, coalesce(actor_type, 'user'),
        action, resource_type, resource_id, before, after, metadata
    );
    return entry_id;
end
$$;
comment on function ledger.record is 'Records an event, which is appended to the ledger if this transaction commits; returns its id.';

grant execute on function ledger.record to ledger_recorder, ledger_writer;
