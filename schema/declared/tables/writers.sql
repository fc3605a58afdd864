create table ledger.writers (
    ledger_id int,
    role regrole not null,
    constraint one_writer_per_ledger unique nulls not distinct (ledger_id, role)
);
comment on table ledger.writers is 'To which ledgers a member of ledger_writer may append; a ledger_id of NULL is all of them.';

grant select on ledger.writers to ledger_admin;
