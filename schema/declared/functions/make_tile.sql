-- Hashes `first` to `last` (from 0) of a tile, as the entries make level 0 and the tiles below the others. Shorter where
-- those are not there. An entry that has no envelope, because a time of it is none, has the leaf of an empty one; one
-- that is quarantined, that of quarantined_leaf.
create function ledger.make_tile(ledger_id int, level smallint, index bigint, first int, last int) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    start constant bigint := index * 256 + 1;
    timeless bigint[];
    quarantined bigint[];
    made bytea;
begin
    if level = 0 then
        timeless := array(
            select entry.position from ledger.audit_logs as entry
            where entry.ledger_id = $1 and entry.position between start + first and start + last and (
                least(entry.recorded_at, entry.occurred_at) < '0001-01-01 00:00:00+00'
                or greatest(entry.recorded_at, entry.occurred_at) >= '10000-01-01 00:00:00+00'
            )
        );
        quarantined := array(
            select distinct said.resource_id::bigint from ledger.audit_logs as said
            where said.ledger_id = $1 and said.resource_type = 'ledger.entry'
                and said.resource_id = any (array(select at::text from generate_series(start + first, start + last) as at))
                and said.action = 'ledger.entry_quarantined' and said.position > said.resource_id::bigint
        );
        select string_agg(sha256(decode('00', 'hex') || leaf.data), ''::bytea order by leaf.position) into made
        from (
            select envelopes.position, case
                when envelopes.position = any (timeless) then '' else convert_to(envelopes.envelope, 'UTF8')
            end
            from ledger.envelopes
            where envelopes.ledger_id = $1 and envelopes.position between start + first and start + last
                and envelopes.position <> all (quarantined)
            union all
            select at, ledger.quarantined_leaf($1, at) from unnest(quarantined) as at
        ) as leaf (position, data);
    else
        select string_agg(ledger.merkle_root(tile.hashes), ''::bytea order by tile.index) into made
        from ledger.tiles as tile
        where tile.ledger_id = $1 and tile.level = $2 - 1 and octet_length(tile.hashes) = 8192
            and tile.index between $3 * 256 + first and $3 * 256 + last;
    end if;
    return made;
end
$$;
