-- Read views and what is known of them.

create schema ledger_views;
comment on schema ledger_views is 'Read views made from the ledger; any of them can be dropped and replayed.';

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

create table ledger.verifications (
    ledger_id int not null,
    verified_at timestamptz not null default now(),
    first bigint not null,
    last bigint not null,
    head bytea not null,
    findings int not null,
    primary key (ledger_id, verified_at)
);
comment on table ledger.verifications is 'For status: when each ledger was verified last, and whether it held.';
