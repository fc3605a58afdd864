-- Events of the outbox that cannot be appended, set aside with the reason, so that they are neither lost nor in the way.
create table ledger.rejected (
    ledger_id int not null,
    seq bigint not null,
    id uuid not null,
    named boolean not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz,
    actor text not null,
    actor_type text not null,
    action text not null,
    resource_type text,
    resource_id text,
    before json,
    after json,
    metadata json,
    reason text not null,
    rejected_at timestamptz not null default clock_timestamp(),
    constraint one_rejected_event_per_seq primary key (ledger_id, seq)
);

create trigger unchanged before update or truncate on ledger.rejected
    for each statement execute function ledger.refuse_change();
alter table ledger.rejected enable always trigger unchanged;

grant select, insert on ledger.rejected to ledger_projector;
-- What `status` and `doctor` count.
grant select (ledger_id, seq, recorded_at, rejected_at, reason) on ledger.rejected to ledger_admin;
