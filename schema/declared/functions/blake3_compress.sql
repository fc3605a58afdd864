-- BLAKE3's compression function, of which the first eight words are wanted (BLAKE3 paper, 2.2). Words are bigints.
create function ledger.blake3_compress(cv bigint[], words bigint[], counter bigint, size int, flags int) returns bigint[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    low constant bigint := 4294967295;
    places constant int[] := '{1,5,9,13,2,6,10,14,3,7,11,15,4,8,12,16,1,6,11,16,2,7,12,13,3,8,9,14,4,5,10,15}';
    v bigint[] := cv || '{1779033703,3144134277,1013904242,2773480762}'::bigint[]
        || array[counter & low, counter >> 32, size, flags];
    m bigint[] := words;
    a bigint;
    b bigint;
    c bigint;
    d bigint;
begin
    for round in 1 .. 7 loop
        for mix in 0 .. 7 loop
            a := v[places[mix * 4 + 1]];
            b := v[places[mix * 4 + 2]];
            c := v[places[mix * 4 + 3]];
            d := v[places[mix * 4 + 4]];
            a := (a + b + m[mix * 2 + 1]) & low;
            d := d # a;
            d := ((d >> 16) | (d << 16)) & low;
            c := (c + d) & low;
            b := b # c;
            b := ((b >> 12) | (b << 20)) & low;
            a := (a + b + m[mix * 2 + 2]) & low;
            d := d # a;
            d := ((d >> 8) | (d << 24)) & low;
            c := (c + d) & low;
            b := b # c;
            b := ((b >> 7) | (b << 25)) & low;
            v[places[mix * 4 + 1]] := a;
            v[places[mix * 4 + 2]] := b;
            v[places[mix * 4 + 3]] := c;
            v[places[mix * 4 + 4]] := d;
        end loop;
        m := array[m[3], m[7], m[4], m[11], m[8], m[1], m[5], m[14], m[2], m[12], m[13], m[6], m[10], m[15], m[16], m[9]];
    end loop;
    return array[
        v[1] # v[9], v[2] # v[10], v[3] # v[11], v[4] # v[12], v[5] # v[13], v[6] # v[14], v[7] # v[15], v[8] # v[16]
    ];
end
$$;
