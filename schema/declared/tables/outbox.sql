-- Events that are recorded and not sealed yet: they have no position and no hash. They come through ledger.record and the
-- triggers of captured tables alone, and leave in the transaction that appends them (docs/capture.md).
create table ledger.outbox (
    ledger_id int not null,
    seq bigint generated always as identity,
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
    constraint one_event_per_seq primary key (ledger_id, seq)
) with (
    -- Empty most of the time: what is gone is cleared away before an index scan has to pass over much of it.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);
comment on column ledger.outbox.seq is 'The order of insertion, over all ledgers.';
comment on column ledger.outbox.named is 'Whether the id is the caller''s own, so that it may have been recorded before.';
comment on column ledger.outbox.occurred_at is 'NULL unless the caller gave it: then it is recorded_at.';

create trigger unchanged before update or truncate on ledger.outbox
    for each statement execute function ledger.refuse_change();
alter table ledger.outbox enable always trigger unchanged;

grant select, delete on ledger.outbox to ledger_projector;
-- What `status` and `doctor` count.
grant select (ledger_id, seq, recorded_at) on ledger.outbox to ledger_admin;
