create table ledger.refusals (
    ledger_id int not null,
    origin text not null,
    problem text not null,
    since timestamptz not null default clock_timestamp(),
    primary key (ledger_id, origin)
);
comment on table ledger.refusals is
    'Logs whose signer refused to sign, and what it said: for `status`. Gone with its next signature.';

select ledger.restrict_readers('ledger.refusals', 'ledger_projector');
grant select on ledger.refusals to ledger_reader, ledger_projector;
