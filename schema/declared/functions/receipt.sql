-- Where an event that was recorded stands in the ledger; reason: why it was set aside. No row while it waits.
create function ledger.receipt(ledger text, id uuid) returns table (
    "position" bigint, hash bytea, recorded_at timestamptz, reason text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    target int;
begin
    select known.ledger_id into target from ledger.ledgers as known where known.name = $1;
    if target is null then
        raise exception 'there is no ledger %', coalesce(quote_literal($1), 'NULL') using errcode = 'LE012', column = 'ledger';
    elsif not ledger.may_record(target, ledger.caller()) then
        raise exception '% may not record in ledger %', ledger.caller(), quote_literal($1)
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_recorder USER lets it.';
    end if;
    return query
    select entry.position, entry.hash, entry.recorded_at, null::text
    from ledger.audit_logs as entry where entry.ledger_id = target and entry.id = $2;
    if not found then
        return query
        select null::bigint, null::bytea, null::timestamptz, waiting.reason
        from ledger.rejected as waiting where waiting.ledger_id = target and waiting.id = $2
        order by waiting.seq desc limit 1;
    end if;
end
$$;

grant execute on function ledger.receipt to ledger_recorder, ledger_writer;
