-- A UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, and 74 random bits.
create function ledger.new_id() returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    milliseconds constant bigint := extract(epoch from clock_timestamp()) * 1000;
    bytes constant bytea := overlay(uuid_send(gen_random_uuid()) placing substring(int8send(milliseconds) from 3) from 1);
begin
    return encode(set_byte(bytes, 6, 112 | (get_byte(bytes, 6) & 15)), 'hex')::uuid;
end
$$;
