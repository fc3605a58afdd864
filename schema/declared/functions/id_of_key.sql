-- The id that stands for an idempotency key, as format/canonical.py makes it: a UUIDv8 of the key's BLAKE3 hash in the mode
-- derive_key. Some milliseconds: an id of one's own costs nothing.
create function ledger.id_of_key(key text) returns uuid
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    -- Of the context "auditledger 2026-11 idempotency key to entry id".
    context constant bigint[] := '{3455702375,1609123059,2481704813,3837134925,4125420130,2205140849,3280789708,3293259817}';
    bytes bytea;
begin
    if char_length(key) not between 1 and 1024 then
        perform ledger.refuse_event(
            'idempotency_key', format('must have 1 to 1024 characters, not %s', char_length(key))
        );
    end if;
    bytes := substring(ledger.blake3_in_mode(convert_to(key, 'UTF8'), context, 64) for 16);
    bytes := set_byte(bytes, 6, 128 | (get_byte(bytes, 6) & 15));
    return encode(set_byte(bytes, 8, 128 | (get_byte(bytes, 8) & 63)), 'hex')::uuid;
end
$$;
