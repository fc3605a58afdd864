create table ledger.migrations (
    file text primary key,
    sha256 text not null,
    applied_at timestamptz not null default now()
);
comment on table ledger.migrations is 'What has been applied; compared with schema/journal.json before anything else is done.';

grant select on ledger.migrations to ledger_recorder, ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
