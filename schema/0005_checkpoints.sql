-- The Merkle tree over each ledger's envelopes, in tiles (C2SP tlog-tiles), and the signed checkpoints of it. Changes
-- that are refused have the SQLSTATE LE004, as in 0002.

-- A tile: up to 256 hashes of the tree's level 8 * level, joined. A tile that is full never changes; the last one of
-- each level only grows.
create table ledger.tiles (
    ledger_id int not null,
    level smallint not null,
    index bigint not null,
    hashes bytea not null,
    primary key (ledger_id, level, index),
    constraint tile_format check (
        level between 0 and 7 and index >= 0
        and octet_length(hashes) between 32 and 8192 and octet_length(hashes) % 32 = 0
    )
);
comment on table ledger.tiles is 'The Merkle tree over the envelopes (RFC 6962), in tiles of C2SP tlog-tiles.';
-- Hashes cannot be compressed.
alter table ledger.tiles alter column hashes set storage external;

-- note: a C2SP tlog-checkpoint: origin, size and root in a signed note. Signatures may be added below it.
create table ledger.checkpoints (
    ledger_id int not null,
    size bigint not null,
    root bytea not null,
    note text not null,
    signed_at timestamptz not null default now(),
    primary key (ledger_id, size),
    constraint checkpoint_format check (
        size >= 0 and octet_length(root) = 32
        and split_part(note, chr(10), 2) = size::text and split_part(note, chr(10), 3) = encode(root, 'base64')
    )
);
comment on table ledger.checkpoints is 'Signed checkpoints of the Merkle tree: what each ledger has said of itself.';

create function ledger.refuse_tree_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '% on %.% is refused: % are never changed or removed', tg_op, tg_table_schema, tg_table_name,
        case tg_table_name when 'tiles' then 'the tiles of a Merkle tree' else 'signed checkpoints' end
        using errcode = 'LE004';
end
$$;

create function ledger.grow_tile() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if octet_length(new.hashes) > octet_length(old.hashes)
        and substr(new.hashes, 1, octet_length(old.hashes)) = old.hashes
    then
        return new;
    end if;
    raise exception 'UPDATE on ledger.tiles is refused: tile % of level % may only grow', old.index, old.level
        using errcode = 'LE004';
end
$$;

create function ledger.add_signatures() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.note ^@ old.note then
        return new;
    end if;
    raise exception 'UPDATE on ledger.checkpoints is refused: signatures may only be added to the checkpoint of size %',
        old.size using errcode = 'LE004';
end
$$;

create trigger append_only before delete or truncate or update of ledger_id, level, index on ledger.tiles
    for each statement execute function ledger.refuse_tree_change();
create trigger grow_only before update on ledger.tiles
    for each row execute function ledger.grow_tile();
create trigger append_only before delete or truncate or update of ledger_id, size, root, signed_at on ledger.checkpoints
    for each statement execute function ledger.refuse_tree_change();
create trigger add_only before update on ledger.checkpoints
    for each row execute function ledger.add_signatures();

alter table ledger.tiles enable always trigger append_only;
alter table ledger.tiles enable always trigger grow_only;
alter table ledger.checkpoints enable always trigger append_only;
alter table ledger.checkpoints enable always trigger add_only;
