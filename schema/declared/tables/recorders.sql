create table ledger.recorders (
    ledger_id int,
    role regrole not null,
    constraint one_recorder_per_ledger unique nulls not distinct (ledger_id, role)
);
comment on table ledger.recorders is 'In which ledgers a member of ledger_recorder may record; a ledger_id of NULL is all of them.';

grant select on ledger.recorders to ledger_admin;
