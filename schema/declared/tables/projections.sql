-- A projection's checkpoint moves in the transaction that changes its tables. `building` marks the one that a rebuild
-- fills beside the live one.
create table ledger.projections (
    ledger_id int not null,
    name text not null,
    building boolean not null default false,
    version int not null,
    epoch int not null default 1,
    position bigint not null default 0,
    hash bytea not null default decode(repeat('00', 32), 'hex'),
    recorded_at timestamptz not null default '0001-01-01 00:00:00+00',
    updated_at timestamptz not null default now(),
    primary key (ledger_id, name, building)
) with (fillfactor = 50);

select ledger.restrict_readers('ledger.projections', 'ledger_projector');
grant select on ledger.projections to ledger_reader;
grant select, insert, update, delete on ledger.projections to ledger_projector;
