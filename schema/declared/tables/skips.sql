create table ledger.skips (
    ledger_id int not null,
    name text not null,
    position bigint not null,
    skipped bigint not null,
    retried bigint,
    primary key (ledger_id, skipped),
    constraint skip_order check (skipped > position and retried > skipped)
);
create unique index one_skip_per_entry on ledger.skips (ledger_id, name, position) where retried is null;
comment on table ledger.skips is 'Entries that are left out of a projection, live and replayed.';
comment on column ledger.skips.skipped is 'Position of the entry ledger.entry_skipped.';
comment on column ledger.skips.retried is 'Position of the entry ledger.entry_retried; null while the entry is left out.';

create trigger append_only
    before delete or truncate or update of ledger_id, name, position, skipped on ledger.skips
    for each statement execute function ledger.refuse_change();
create trigger skipped_by_entries before insert on ledger.skips
    for each statement execute function ledger.refuse_change('ledger.entry_skipped');
create trigger retried_by_entries before update on ledger.skips
    for each statement execute function ledger.refuse_change('ledger.entry_retried');

alter table ledger.skips enable always trigger append_only;
alter table ledger.skips enable always trigger skipped_by_entries;
alter table ledger.skips enable always trigger retried_by_entries;

select ledger.restrict_readers('ledger.skips', 'ledger_projector');
grant select on ledger.skips to ledger_reader, ledger_projector;
