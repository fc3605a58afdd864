-- note: a C2SP tlog-checkpoint: origin, size and root in a signed note. Signatures may be added below it.
create table ledger.checkpoints (
    ledger_id int not null,
    size bigint not null,
    root bytea not null,
    note text not null,
    signed_at timestamptz not null default now(),
    origin text not null generated always as (split_part(note, chr(10), 1)) stored,
    primary key (ledger_id, size, origin),
    constraint checkpoint_format check (
        size >= 0 and octet_length(root) = 32
        and split_part(note, chr(10), 2) = size::text and split_part(note, chr(10), 3) = encode(root, 'base64')
    )
);
comment on table ledger.checkpoints is 'Signed checkpoints of the Merkle tree: what each ledger has said of itself.';

create trigger append_only before delete or truncate or update of ledger_id, size, root, signed_at on ledger.checkpoints
    for each statement execute function ledger.refuse_tree_change('ledger.tree_rebuilt');
create trigger add_only before update on ledger.checkpoints
    for each row execute function ledger.add_signatures();
alter table ledger.checkpoints enable always trigger append_only;
alter table ledger.checkpoints enable always trigger add_only;

select ledger.restrict_readers('ledger.checkpoints', 'ledger_projector');
grant select on ledger.checkpoints to ledger_reader, ledger_projector;
