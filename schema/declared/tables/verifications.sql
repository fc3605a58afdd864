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

create trigger place before insert or update on ledger.verifications
    for each row execute function ledger.check_place();
alter table ledger.verifications enable always trigger place;

select ledger.restrict_readers('ledger.verifications', 'ledger_projector');
grant select on ledger.verifications to ledger_reader;
grant select, insert on ledger.verifications to ledger_projector;
