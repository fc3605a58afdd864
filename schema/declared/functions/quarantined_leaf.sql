-- What the leaf of a quarantined entry is of (format.md, "Quarantine"); null where no record names the entry. One that
-- holds all the same has its envelope, whatever a record says.
create function ledger.quarantined_leaf(ledger_id int, entry_position bigint) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    chained bytea;
    found record;
    before bytea;
    after bytea;
    computed bytea;
begin
    select decode(said.metadata ->> 'hash', 'hex') into chained from ledger.audit_logs as said
    where said.ledger_id = $1 and said.resource_type = 'ledger.entry' and said.resource_id = entry_position::text
        and said.action = 'ledger.entry_quarantined' and said.position > entry_position
    order by said.position desc limit 1;
    if chained is null then
        return null;
    end if;
    select entry.prev_hash, entry.hash, case
        when least(entry.recorded_at, entry.occurred_at) >= '0001-01-01 00:00:00+00'
            and greatest(entry.recorded_at, entry.occurred_at) < '10000-01-01 00:00:00+00'
        then convert_to(stored.envelope, 'UTF8')
    end as envelope
    into found
    from ledger.audit_logs as entry join ledger.envelopes as stored using (ledger_id, position)
    where entry.ledger_id = $1 and entry.position = entry_position;
    if found.envelope is null then
        return chained;
    end if;
    computed := ledger.blake3(found.envelope);
    select entry.hash into before from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.position = entry_position - 1;
    select entry.prev_hash into after from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.position = entry_position + 1;
    if computed = chained or (computed = found.hash and computed = after
        and found.prev_hash = case when entry_position = 1 then decode(repeat('00', 32), 'hex') else before end)
    then
        return found.envelope;
    end if;
    return chained;
end
$$;
