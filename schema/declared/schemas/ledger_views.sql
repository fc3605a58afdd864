create schema ledger_views authorization ledger_owner;
comment on schema ledger_views is 'Read views made from the ledger; any of them can be dropped and replayed.';

grant create on schema ledger_views to ledger_projector;
grant usage on schema ledger_views to ledger_reader, ledger_projector;
