-- One row a ledger, rewritten by every append: half-empty pages keep those rewrites in the page (HOT).
create table ledger.tails (
    ledger_id int primary key,
    epoch int not null default 1,
    position bigint not null default 0,
    hash bytea not null default decode(repeat('00', 32), 'hex'),
    recorded_at timestamptz not null default now(),
    fence bigint not null default 0
) with (fillfactor = 50);
comment on table ledger.tails is 'The newest entry of each ledger. Only the trigger on audit_logs moves it.';
comment on column ledger.tails.fence is 'Means nothing: a writer locks the tail by updating it.';
comment on column ledger.tails.epoch is 'The first half of stream ids; grows when the stream had run ahead of a restored database.';

create trigger append_only before delete or truncate on ledger.tails
    for each statement execute function ledger.refuse_change();
-- Depth 0 is a statement by hand; move_tail's own update comes from within a trigger.
create trigger moved_by_entries before update of ledger_id, position, hash, recorded_at on ledger.tails
    for each row when (pg_trigger_depth() = 0) execute function ledger.refuse_change();
alter table ledger.tails enable always trigger append_only;
alter table ledger.tails enable always trigger moved_by_entries;

select ledger.restrict_readers('ledger.tails', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
-- A writer sees its ledgers, and locks the tails of no others.
create policy writable on ledger.tails to ledger_writer using (ledger.may_write(ledger_id, current_user));
grant select on ledger.tails to ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
grant update (fence) on ledger.tails to ledger_writer, ledger_projector, ledger_eraser, ledger_admin;
