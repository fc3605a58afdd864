-- A place in a ledger is one that it has: position and hash of an entry, or its beginning.
create function ledger.check_place() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    tail ledger.tails;
    named constant text := to_jsonb(new) ->> 'name';
begin
    select * into tail from ledger.tails where ledger_id = new.ledger_id;
    if not found then
        raise exception 'there is no ledger %', new.ledger_id using errcode = 'LE020';
    end if;
    if tg_op = 'INSERT' and (named = '' or octet_length(named) > 200 or named ~ '[[:cntrl:]]') then
        raise exception 'not a name: %', to_json(left(named, 200)) using errcode = 'LE020',
            hint = '1 to 200 bytes, without control characters.';
    end if;
    if tg_table_name = 'verifications' then
        new.verified_at := clock_timestamp();
        if new.first < 1 or new.last < new.first - 1 or octet_length(new.head) <> 32 or new.findings < 0 then
            raise exception 'no verification of ledger %: entries % to %', new.ledger_id, new.first, new.last
                using errcode = 'LE020';
        end if;
        return new;
    end if;
    new.updated_at := now();
    if new.position < 0 or new.position > tail.position then
        raise exception '% is at position %, but ledger % ends at %', named, new.position, new.ledger_id, tail.position
            using errcode = 'LE020';
    end if;
    return new;
end
$$;
