-- What ledger.capture_statement makes for the columns that a table had when its capture was installed.
create table ledger.capture_statements (
    relation regclass not null,
    op text not null,
    columns text not null,
    statement text not null,
    constraint one_statement_per_op primary key (relation, op)
);
