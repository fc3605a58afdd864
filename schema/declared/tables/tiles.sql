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

create trigger append_only before delete or truncate or update of ledger_id, level, index on ledger.tiles
    for each statement execute function ledger.refuse_tree_change('ledger.tree_rebuilt');
create trigger grow_only before update on ledger.tiles
    for each row execute function ledger.grow_tile();
alter table ledger.tiles enable always trigger append_only;
alter table ledger.tiles enable always trigger grow_only;

select ledger.restrict_readers('ledger.tiles', 'ledger_projector');
grant select on ledger.tiles to ledger_reader, ledger_projector;
