create function ledger.refuse_more_than_bodies() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if num_nonnulls(new.before, new.after, new.metadata, new.salt) = 0
        and (
            new.ledger_id, new.position, new.id, new.recorded_at, new.occurred_at, new.actor, new.actor_type,
            new.action, new.resource_type, new.resource_id, new.body_hash, new.prev_hash, new.hash
        ) is not distinct from (
            old.ledger_id, old.position, old.id, old.recorded_at, old.occurred_at, old.actor, old.actor_type,
            old.action, old.resource_type, old.resource_id, old.body_hash, old.prev_hash, old.hash
        )
    then
        return new;
    end if;
    raise exception 'UPDATE on ledger.audit_logs is refused: of entry % more would change than that its body goes',
        old.position using errcode = 'LE004';
end
$$;
