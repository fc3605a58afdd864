-- A JSON text as {"$digest": …}: its HMAC-SHA-256 (RFC 2104) with the key of ledger.digest_keys.
create function ledger.digest_of(value text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select format('{"$digest":"%s"}', encode(sha256(outer_pad || sha256(inner_pad || convert_to(value, 'UTF8'))), 'hex'))
        from ledger.digest_keys
    );
end
$$;
