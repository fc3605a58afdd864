-- What a lesser role writes cannot stop others. What it may write is checked against the ledger itself; SQLSTATE:
--   LE020  a row that says of the ledger what is not so

-- -------------------------------------------------------------------------------------------------------------- epochs

-- One at a time: an epoch of 2^31 - 1 would be the last.
create function ledger.open_epoch(ledger_id int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    opened int;
begin
    update ledger.tails as tail set epoch = tail.epoch + 1 where tail.ledger_id = $1 returning tail.epoch into opened;
    return opened;
end
$$;
comment on function ledger.open_epoch is 'Opens the next epoch of a ledger''s stream, and returns it.';

revoke update (epoch) on ledger.tails from ledger_admin;
grant execute on function ledger.open_epoch to ledger_admin;

-- ------------------------------------------------------------------------------- what workers note of themselves

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

-- Of a projection further: its hash is the entry's; what it stands still at comes next.
create function ledger.check_checkpoint() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    entry record;
begin
    if new.position = 0 then
        entry := row(decode(repeat('00', 32), 'hex'), '0001-01-01 00:00:00+00'::timestamptz);
    else
        select hash, recorded_at into entry from ledger.audit_logs
        where ledger_id = new.ledger_id and position = new.position;
    end if;
    if (new.hash, new.recorded_at) is distinct from entry
        or new.epoch not between 1 and (select epoch from ledger.tails where ledger_id = new.ledger_id)
        or new.version < 0
    then
        raise exception 'projection % is not at an entry of ledger %: position %', new.name, new.ledger_id, new.position
            using errcode = 'LE020';
    end if;
    if new.failed_position is not null and (
        new.failed_position < 1 or new.failed_tries < 0 or new.failing_since < '0001-01-01'
        or new.failed_position > (select position from ledger.tails where ledger_id = new.ledger_id)
    ) then
        raise exception 'projection % cannot stand still at entry %', new.name, new.failed_position
            using errcode = 'LE020';
    end if;
    if new.failing_since > clock_timestamp() then
        new.failing_since := clock_timestamp();
    end if;
    return new;
end
$$;

create trigger place before insert or update on ledger.projections
    for each row execute function ledger.check_place();
create trigger place_of_view before insert or update on ledger.projections
    for each row execute function ledger.check_checkpoint();
create trigger place before insert or update on ledger.subscriptions
    for each row execute function ledger.check_place();
create trigger place before insert or update on ledger.verifications
    for each row execute function ledger.check_place();

alter table ledger.projections enable always trigger place;
alter table ledger.projections enable always trigger place_of_view;
alter table ledger.subscriptions enable always trigger place;
alter table ledger.verifications enable always trigger place;

grant delete on ledger.subscriptions to ledger_projector;

-- ---------------------------------------------------------------------------------------------------- tiles, checkpoints
-- They are written by the functions below alone, which make from the entries what they are given, and compare.

revoke insert, update (hashes) on ledger.tiles from ledger_projector;
revoke insert, update (note) on ledger.checkpoints from ledger_projector;

-- A log that took another name keeps its checkpoints of the same size beside one another.
alter table ledger.checkpoints add column origin text not null generated always as (split_part(note, chr(10), 1)) stored;
alter table ledger.checkpoints drop constraint checkpoints_pkey;
alter table ledger.checkpoints add primary key (ledger_id, size, origin);

-- As in 0006; but a trigger's argument names the one own action that may remove.
create or replace function ledger.refuse_tree_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_nargs > 0 and tg_op = 'DELETE' and current_setting('ledger.own', true) = tg_argv[0]
        and current_user = (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid)
    then
        return null;
    end if;
    raise exception '% on %.% is refused: % are never changed or removed', tg_op, tg_table_schema, tg_table_name,
        case tg_table_name when 'tiles' then 'the tiles of a Merkle tree' else 'signed checkpoints' end
        using errcode = 'LE004';
end
$$;

drop trigger append_only on ledger.tiles;
create trigger append_only before delete or truncate or update of ledger_id, level, index on ledger.tiles
    for each statement execute function ledger.refuse_tree_change('ledger.tree_rebuilt');
drop trigger append_only on ledger.checkpoints;
create trigger append_only before delete or truncate or update of ledger_id, size, root, signed_at on ledger.checkpoints
    for each statement execute function ledger.refuse_tree_change('ledger.tree_rebuilt');

alter table ledger.tiles enable always trigger append_only;
alter table ledger.checkpoints enable always trigger append_only;

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

-- Hashes `first` to `last` (from 0) of a tile, as the entries make level 0 and the tiles below the others. Shorter where
-- those are not there. An entry that has no envelope, because a time of it is none, has the leaf of an empty one.
create function ledger.make_tile(ledger_id int, level smallint, index bigint, first int, last int) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    start constant bigint := index * 256 + 1;
    timeless bigint[];
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
        select string_agg(
            sha256(decode('00', 'hex') || case
                when envelopes.position = any (timeless) then '' else convert_to(envelopes.envelope, 'UTF8') end),
            ''::bytea order by envelopes.position
        ) into made
        from ledger.envelopes
        where envelopes.ledger_id = $1 and envelopes.position between start + first and start + last;
    else
        select string_agg(ledger.merkle_root(tile.hashes), ''::bytea order by tile.index) into made
        from ledger.tiles as tile
        where tile.ledger_id = $1 and tile.level = $2 - 1 and octet_length(tile.hashes) = 8192
            and tile.index between $3 * 256 + first and $3 * 256 + last;
    end if;
    return made;
end
$$;

-- Writes tiles, or what they are wider by than those that are there. Raises LE020 for what the ledger's entries do not
-- make, and so for what is beyond its tail.
create function ledger.write_tiles(ledger_id int, levels smallint[], indexes bigint[], hashes bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    wider record;
    kept bytea;
begin
    -- As signers lock it (ledger/sql/tree.sql).
    perform pg_advisory_xact_lock(710183013, $1);
    for wider in
        select said.level, said.index, said.hashes from unnest($2, $3, $4) as said (level, index, hashes)
        order by said.level, said.index
    loop
        if wider.level not between 0 and 7 or wider.index not between 0 and (1::bigint << 55)
            or octet_length(wider.hashes) not between 32 and 8192 or octet_length(wider.hashes) % 32 <> 0
        then
            raise exception 'not a tile: level %, index %, % bytes', wider.level, wider.index, octet_length(wider.hashes)
                using errcode = 'LE020';
        end if;
        kept := coalesce((
            select tile.hashes from ledger.tiles as tile
            where tile.ledger_id = $1 and tile.level = wider.level and tile.index = wider.index
        ), '');
        continue when substr(kept, 1, octet_length(wider.hashes)) = wider.hashes;
        if substr(wider.hashes, 1, octet_length(kept)) <> kept then
            raise exception 'tile % of level % is there with other hashes', wider.index, wider.level
                using errcode = 'LE020';
        elsif wider.index > 0 and not exists (
            select from ledger.tiles as tile where tile.ledger_id = $1 and tile.level = wider.level
                and tile.index = wider.index - 1 and octet_length(tile.hashes) = 8192
        ) then
            raise exception 'tile % of level % would follow one that is not full', wider.index, wider.level
                using errcode = 'LE020';
        elsif ledger.make_tile(
            $1, wider.level, wider.index, octet_length(kept) / 32, octet_length(wider.hashes) / 32 - 1
        ) is distinct from substr(wider.hashes, octet_length(kept) + 1) then
            raise exception 'tile % of level % is not what the ledger''s entries make', wider.index, wider.level
                using errcode = 'LE020';
        end if;
        insert into ledger.tiles as tile (ledger_id, level, index, hashes)
        values ($1, wider.level, wider.index, wider.hashes)
        on conflict on constraint tiles_pkey do update set hashes = excluded.hashes;
    end loop;
end
$$;

-- The root of the tree when it had so many leaves; NULL where the tiles do not reach so far.
create function ledger.tree_root(ledger_id int, size bigint) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    -- From the lowest level up, the partial tile and the root of what is right of it.
    right_of bytea := '';
    hashes bytea;
    width int;
begin
    if size = 0 then
        return sha256('');
    end if;
    for height in 0..7 loop
        width := (size >> (8 * height)) % 256;
        continue when width = 0;
        select substr(tile.hashes, 1, 32 * width) into hashes from ledger.tiles as tile
        where tile.ledger_id = $1 and tile.level = height and tile.index = size >> (8 * (height + 1));
        if octet_length(hashes) is distinct from 32 * width then
            return null;
        end if;
        right_of := ledger.merkle_root(hashes || right_of);
    end loop;
    return right_of;
end
$$;

-- Signature lines of a C2SP signed-note, as ledger/note.py reads them.
create function ledger.are_signatures(lines text[]) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    -- What Unicode calls a space, beyond those that every locale does.
    spaces constant text := chr(133) || chr(160) || chr(5760) || chr(8192) || '-' || chr(8202) || chr(8232) || chr(8233)
        || chr(8239) || chr(8287) || chr(12288);
    line text;
    data constant text := ' [A-Za-z0-9+/]{6,}={0,2}$';
begin
    foreach line in array lines loop
        if line !~ (chr(94) || chr(8212) || ' [^[:space:][:cntrl:]+' || spaces || ']+' || data) then
            return false;
        end if;
        line := split_part(line, ' ', 3);
        if octet_length(decode(line, 'base64')) < 5 or translate(encode(decode(line, 'base64'), 'base64'), chr(10), '') <> line then
            return false;
        end if;
    end loop;
    return cardinality(lines) > 0;
exception when data_exception then
    return false;
end
$$;

-- Keeps a signed checkpoint; to one that is there, adds the signature lines that it lacks, as long as there is room.
-- Returns the note that is kept then. Whether a signature verifies is for its readers to know.
create function ledger.keep_checkpoint(ledger_id int, size bigint, root bytea, note text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    whose constant text := split_part(note, chr(10), 1);
    head constant text := whose || chr(10) || size || chr(10) || encode(root, 'base64') || chr(10) || chr(10);
    lines constant text[] := string_to_array(rtrim(substr(note, length(head) + 1), chr(10)), chr(10));
    most constant int := 100;
    there text[];
    kept text;
begin
    if octet_length(note) <= 65536 and whose !~ '[[:cntrl:]]' and note ^@ head
        and note = head || array_to_string(lines, chr(10)) || chr(10) and ledger.are_signatures(lines)
        and exists (select from ledger.ledgers as owned where owned.ledger_id = $1 and whose like '_%/' || owned.name)
    then
        null;
    else
        raise exception 'not a signed checkpoint of size %', size using errcode = 'LE020';
    end if;
    perform pg_advisory_xact_lock(710183013, $1);
    if root is distinct from ledger.tree_root($1, size) then
        raise exception 'the root of the first % entries is another one', size using errcode = 'LE020';
    end if;
    select checkpoint.note into kept from ledger.checkpoints as checkpoint
    where checkpoint.ledger_id = $1 and checkpoint.size = $2 and checkpoint.origin = whose for update;
    if kept is null then
        insert into ledger.checkpoints (ledger_id, size, root, note)
        values ($1, $2, $3, head || array_to_string(lines[:most], chr(10)) || chr(10)) returning checkpoints.note into kept;
        return kept;
    elsif not kept ^@ head then
        raise exception 'another checkpoint of size % is kept', size using errcode = 'LE020';
    end if;
    there := string_to_array(rtrim(substr(kept, length(head) + 1), chr(10)), chr(10));
    for place in 1..cardinality(lines) loop
        if lines[place] <> all (there) and cardinality(there) < most then
            there := there || lines[place];
        end if;
    end loop;
    update ledger.checkpoints as checkpoint set note = head || array_to_string(there, chr(10)) || chr(10)
    where checkpoint.ledger_id = $1 and checkpoint.size = $2 and checkpoint.origin = whose
    returning checkpoint.note into kept;
    return kept;
end
$$;

-- Removes all tiles, which the next signature makes again from the entries, and the checkpoints of the sizes that
-- `entry` has in its metadata, and records `entry`. That it says what stood there is for its writer; that this is so, here.
create function ledger.rebuild_tree(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    removed jsonb;
begin
    perform set_config('ledger.own', 'ledger.tree_rebuilt', true);
    perform ledger.check_reason(entry);
    if entry.resource_type is distinct from 'ledger.tree' then
        raise exception 'a rebuilt tree is a ledger.tree, not a %', entry.resource_type using errcode = 'LE002';
    end if;
    perform pg_advisory_xact_lock(710183013, entry.ledger_id);
    if entry.metadata -> 'tree' is null
        or ledger.tree_stands(entry.ledger_id, entry.metadata::jsonb -> 'sizes') <> (entry.metadata -> 'tree')::jsonb
    then
        raise exception 'the tree has changed meanwhile: try again' using errcode = 'LE020';
    end if;
    delete from ledger.tiles where ledger_id = entry.ledger_id;
    delete from ledger.checkpoints where ledger_id = entry.ledger_id
        and size in (select jsonb_array_elements_text(entry.metadata::jsonb -> 'sizes')::bigint);
    perform ledger.insert_own(entry);
    perform set_config('ledger.own', '', true);
    return entry;
end
$$;

-- What rebuild_tree removes: how many leaves the tiles are of, their digest, and the checkpoints of these sizes.
create function ledger.tree_stands(ledger_id int, sizes jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    leaves bigint;
    digest bytea;
    notes jsonb;
begin
    select tile.index * 256 + octet_length(tile.hashes) / 32 into leaves from ledger.tiles as tile
    where tile.ledger_id = $1 and tile.level = 0 order by tile.index desc limit 1;
    select sha256(coalesce(string_agg(sha256(tile.hashes), ''::bytea order by tile.level, tile.index), '')) into digest
    from ledger.tiles as tile where tile.ledger_id = $1;
    select jsonb_agg(checkpoint.note order by checkpoint.size, checkpoint.origin) into notes
    from ledger.checkpoints as checkpoint
    where checkpoint.ledger_id = $1 and checkpoint.size in (select jsonb_array_elements_text(sizes)::bigint);
    return jsonb_build_object(
        'leaves', coalesce(leaves, 0), 'tiles_sha256', encode(digest, 'hex'), 'checkpoints', coalesce(notes, '[]')
    );
end
$$;

grant execute on function ledger.write_tiles, ledger.keep_checkpoint to ledger_projector;
grant execute on function ledger.rebuild_tree, ledger.tree_stands to ledger_admin;
