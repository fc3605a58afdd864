create table ledger.suspects (
    ledger_id int not null,
    position bigint not null,
    noted_at timestamptz not null default clock_timestamp(),
    primary key (ledger_id, position)
);
comment on table ledger.suspects is
    'Entries at which a worker stopped: where `status` looks. Whether they hold, it finds out by itself.';

select ledger.restrict_readers('ledger.suspects', 'ledger_projector');
grant select on ledger.suspects to ledger_reader, ledger_projector;
