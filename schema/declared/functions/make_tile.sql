-- Hashes `first` to `last` (from 0) of a tile, as the entries make level 0 and the tiles below the others. Shorter where
-- those are not there. An entry that has no envelope, because a time of it is none, has the leaf of an empty one.
create function ledger.make_tile(ledger_id int, level smallint, index bigint, first int, last int) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    made bytea;
begin
    if level = 0 then
        select string_agg(
            sha256(decode('00', 'hex') || case
                when least(entry.recorded_at, entry.occurred_at) >= '0001-01-01 00:00:00+00'
                    and greatest(entry.recorded_at, entry.occurred_at) < '10000-01-01 00:00:00+00'
                then convert_to(envelopes.envelope, 'UTF8') else '' end),
            ''::bytea order by envelopes.position
        ) into made
        from ledger.envelopes join ledger.audit_logs as entry using (ledger_id, position)
        where envelopes.ledger_id = $1 and entry.ledger_id = $1
            and entry.position between index * 256 + first + 1 and index * 256 + last + 1
            and envelopes.position between index * 256 + first + 1 and index * 256 + last + 1;
    else
        select string_agg(ledger.merkle_root(tile.hashes), ''::bytea order by tile.index) into made
        from ledger.tiles as tile
        where tile.ledger_id = $1 and tile.level = $2 - 1 and octet_length(tile.hashes) = 8192
            and tile.index between $3 * 256 + first and $3 * 256 + last;
    end if;
    return made;
end
$$;
