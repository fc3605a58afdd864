create table ledger.holds (
    ledger_id int not null,
    resource_type text not null,
    resource_id text not null,
    placed bigint not null,
    released bigint constraint released_after_placed check (released > placed),
    primary key (ledger_id, placed)
);
create unique index one_hold_per_resource on ledger.holds (ledger_id, resource_type, resource_id)
    where released is null;
comment on table ledger.holds is
    'Legal holds: nothing about the resource may be erased. Resource type ledger.entry: the one entry at a position.';
comment on column ledger.holds.placed is 'Position of the entry ledger.hold_placed.';
comment on column ledger.holds.released is 'Position of the entry ledger.hold_released; null while the hold stands.';

create trigger append_only
    before delete or truncate or update of ledger_id, resource_type, resource_id, placed on ledger.holds
    for each statement execute function ledger.refuse_change();
create trigger placed_by_entries before insert on ledger.holds
    for each statement execute function ledger.refuse_change('ledger.hold_placed');
create trigger released_by_entries before update on ledger.holds
    for each statement execute function ledger.refuse_change('ledger.hold_released');
alter table ledger.holds enable always trigger append_only;
alter table ledger.holds enable always trigger placed_by_entries;
alter table ledger.holds enable always trigger released_by_entries;

select ledger.restrict_readers('ledger.holds', 'ledger_projector', 'ledger_eraser', 'ledger_admin');
grant select on ledger.holds to ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
