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
    -- Of the live view: where it stands still and why. failed_error names the exception's type and where it was raised,
    -- but not its message, which may hold what stood in a body and has to go when that is erased.
    failed_position bigint,
    failed_error text,
    failing_since timestamptz,
    failed_tries int,
    primary key (ledger_id, name, building),
    constraint failure_format check (
        num_nulls(failed_position, failed_error, failing_since, failed_tries) in (0, 4)
        and octet_length(failed_error) <= 500
    )
) with (fillfactor = 50);
comment on column ledger.projections.failed_position is
    'The entry that could not be applied; null while nothing is wrong. Cleared when the projection moves past it.';
comment on column ledger.projections.failed_tries is
    'How often it failed for a reason that lies in the entry or in the projection, not in the servers.';

create trigger place before insert or update on ledger.projections
    for each row execute function ledger.check_place();
create trigger place_of_view before insert or update on ledger.projections
    for each row execute function ledger.check_checkpoint();
alter table ledger.projections enable always trigger place;
alter table ledger.projections enable always trigger place_of_view;

select ledger.restrict_readers('ledger.projections', 'ledger_projector');
grant select on ledger.projections to ledger_reader;
grant select, insert, update, delete on ledger.projections to ledger_projector;
