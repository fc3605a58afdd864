-- Keeps the key of digests. Without one, a random one if there is none yet. Another key than the one that is kept is
-- refused: equal values would no longer have equal digests.
create function ledger.keep_digest_key(key text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    secret constant bytea := convert_to(
        coalesce(key, replace(concat(gen_random_uuid(), gen_random_uuid()), '-', '')), 'UTF8'
    );
    padded bytea := case when octet_length(secret) > 64 then sha256(secret) else secret end;
    pads bytea[] := '{"", ""}';
begin
    if key is not null and char_length(key) not between 16 and 64 then
        raise exception 'a digest key has 16 to 64 characters' using errcode = 'LE013';
    end if;
    padded := padded || decode(repeat('00', 64 - octet_length(padded)), 'hex');
    for place in 0 .. 63 loop
        pads[1] := pads[1] || set_byte('\x00', 0, get_byte(padded, place) # 54);
        pads[2] := pads[2] || set_byte('\x00', 0, get_byte(padded, place) # 92);
    end loop;
    insert into ledger.digest_keys (inner_pad, outer_pad) values (pads[1], pads[2]) on conflict do nothing;
    if not found and key is not null and not exists (select from ledger.digest_keys where inner_pad = pads[1]) then
        raise exception 'this database makes digests with another key than LEDGER_DIGEST_KEY' using errcode = 'LE013',
            hint = 'Another key gives other digests. Set the key that was used at first, or none.';
    end if;
end
$$;

grant execute on function ledger.keep_digest_key to ledger_admin;
