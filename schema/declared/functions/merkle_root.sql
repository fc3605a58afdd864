-- RFC 6962, "Merkle Tree Hash": the root over hashes of 32 bytes that are joined. An odd one out goes up as it is.
create function ledger.merkle_root(hashes bytea) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    while octet_length(hashes) > 32 loop
        select string_agg(
            case octet_length(pair.hashes) when 64 then sha256(decode('01', 'hex') || pair.hashes) else pair.hashes end,
            ''::bytea order by pair.at
        ) into hashes
        from (
            select at, substr($1, at, 64) as hashes from generate_series(1, octet_length($1), 64) as at
        ) as pair;
    end loop;
    return hashes;
end
$$;
