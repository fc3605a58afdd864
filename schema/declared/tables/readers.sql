create table ledger.readers (
    ledger_id int,
    role regrole not null,
    constraint one_reader_per_ledger unique nulls not distinct (ledger_id, role)
);
comment on table ledger.readers is 'Which ledgers a member of ledger_reader may read; a ledger_id of NULL is all of them.';

grant select on ledger.readers to ledger_admin;
