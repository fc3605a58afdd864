-- What the hash of a body is, in hex, and whether that is the one that its entry's envelope names. Of a body that was
-- erased, what its erasure says of it (null where it matched), and null. For those who may erase, and need not read for that.
create function ledger.body_digest(ledger_id int, about text, out digest text, out matches boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    entry ledger.audit_logs;
begin
    if about ~ '^[1-9][0-9]{0,17}$' then
        select * into entry from ledger.audit_logs as stored
        where stored.ledger_id = $1 and stored.position = about::bigint;
    end if;
    if entry.salt is null then
        select said.metadata ->> 'mismatched' into digest from ledger.audit_logs as said
        where said.ledger_id = $1 and said.resource_type = 'ledger.entry' and said.resource_id = about
            and said.action = 'ledger.entry_erased'
        order by said.position limit 1;
    else
        digest := encode(ledger.hash_of_body(entry), 'hex');
        matches := digest is not distinct from encode(entry.body_hash, 'hex');
    end if;
end
$$;
grant execute on function ledger.body_digest to ledger_eraser;
