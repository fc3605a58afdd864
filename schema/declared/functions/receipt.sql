-- Where an event that was recorded stands in the ledger; reason: why it was set aside. No row while it waits.
create function ledger.receipt(ledger text, id uuid) returns table (
    "position" bigint, hash bytea, recorded_at timestamptz, reason text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    target constant int := ledger.recordable($1);
begin
    return query
    select entry.position, entry.hash, entry.recorded_at, null::text
    from ledger.audit_logs as entry where entry.ledger_id = target and entry.id = $2;
    if not found then
        return query
        select null::bigint, null::bytea, null::timestamptz, rejected.reason
        from ledger.rejected as rejected where rejected.ledger_id = target and rejected.id = $2
        order by rejected.seq desc limit 1;
    end if;
end
$$;

grant execute on function ledger.receipt to ledger_recorder, ledger_writer;
