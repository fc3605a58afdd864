create table ledger.subscriptions (
    ledger_id int not null,
    name text not null,
    position bigint not null,
    updated_at timestamptz not null default now(),
    primary key (ledger_id, name)
) with (fillfactor = 50);
comment on table ledger.subscriptions is
    'Each consumer group has dealt with everything up to here, so that it can go on when Redis has lost it.';

create trigger place before insert or update on ledger.subscriptions
    for each row execute function ledger.check_place();
alter table ledger.subscriptions enable always trigger place;

select ledger.restrict_readers('ledger.subscriptions', 'ledger_projector');
grant select on ledger.subscriptions to ledger_reader;
grant select, insert, update, delete on ledger.subscriptions to ledger_projector;
