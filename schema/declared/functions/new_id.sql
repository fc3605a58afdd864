-- A UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, and 74 random bits: version 4's of gen_random_uuid, which
-- two bits turn into 7.
create function ledger.new_id() returns uuid
language sql volatile set search_path = pg_catalog, pg_temp
return encode(
    overlay(
        set_bit(set_bit(uuid_send(gen_random_uuid()), 52, 1), 53, 1)
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1
    ),
    'hex'
)::uuid;
