create table ledger.ledgers (
    ledger_id int generated always as identity primary key,
    name text not null constraint one_ledger_per_name unique
        constraint ledger_name_format check (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    created_at timestamptz not null default now()
);

create trigger append_only before update or delete or truncate on ledger.ledgers
    for each statement execute function ledger.refuse_change();
-- ALWAYS, here and elsewhere: they fire under session_replication_role = replica too.
alter table ledger.ledgers enable always trigger append_only;

select ledger.restrict_readers('ledger.ledgers', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
-- A writer sees its ledgers, and locks the tails of no others.
create policy writable on ledger.ledgers to ledger_writer using (ledger.may_write(ledger_id, current_user));
grant select on ledger.ledgers to ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin;

-- Opening a ledger by its name takes no more.
create policy recordable on ledger.ledgers for select to ledger_recorder
    using (ledger.may_record(ledger_id, current_user));
grant select on ledger.ledgers to ledger_recorder;
