-- BLAKE3-256 in its modes (BLAKE3 paper, 2.3). key: eight words. mode: the flag of each compression, 0 for a plain hash.
create function ledger.blake3_in_mode(data bytea, key bigint[], mode int) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    chunks constant int := greatest(1, (octet_length(data) + 1023) / 1024);
    chunk bytea;
    block bytea;
    words bigint[];
    blocks int;
    cv bigint[];
    waiting bigint[] := '{}';  -- the chaining values of finished subtrees, 8 words each
    finished int;
    root int;
    result bytea := '';
begin
    for number in 0 .. chunks - 1 loop
        chunk := substring(data from number * 1024 + 1 for 1024);
        blocks := greatest(1, (octet_length(chunk) + 63) / 64);
        cv := key;
        for at in 0 .. blocks - 1 loop
            block := substring(chunk from at * 64 + 1 for 64);
            words := array(
                select get_byte(padded, word * 4)::bigint + (get_byte(padded, word * 4 + 1)::bigint << 8)
                    + (get_byte(padded, word * 4 + 2)::bigint << 16) + (get_byte(padded, word * 4 + 3)::bigint << 24)
                from (select block || decode(repeat('00', 64 - octet_length(block)), 'hex')) as whole (padded),
                    generate_series(0, 15) as word
                order by word
            );
            root := case when chunks = 1 and at = blocks - 1 then 8 else 0 end;
            cv := ledger.blake3_compress(
                cv, words, number, octet_length(block),
                case when at = 0 then 1 else 0 end + case when at = blocks - 1 then 2 else 0 end + root + mode
            );
        end loop;
        finished := number + 1;
        -- The last chunk joins all that waits; any other, what is as large as itself.
        while cardinality(waiting) > 0 and (number = chunks - 1 or finished % 2 = 0) loop
            root := case when number = chunks - 1 and cardinality(waiting) = 8 then 8 else 0 end;
            cv := ledger.blake3_compress(key, waiting[cardinality(waiting) - 7:] || cv, 0, 64, 4 + root + mode);
            waiting := waiting[:cardinality(waiting) - 8];
            finished := finished / 2;
        end loop;
        waiting := waiting || cv;
    end loop;
    for word in 1 .. 8 loop
        for shift in 0 .. 3 loop
            result := result || set_byte('\x00'::bytea, 0, ((cv[word] >> (shift * 8)) & 255)::int);
        end loop;
    end loop;
    return result;
end
$$;
