-- docs/format.md has the bytes. before, after and metadata are json, not jsonb: their exact text is hashed.
create table ledger.audit_logs (
    ledger_id int not null,
    position bigint not null,
    id uuid not null,
    recorded_at timestamptz not null,
    occurred_at timestamptz not null,
    actor text not null,
    actor_type text not null,
    action text not null,
    resource_type text,
    resource_id text,
    before json,
    after json,
    metadata json,
    salt bytea,
    body_hash bytea not null,
    prev_hash bytea not null,
    hash bytea not null,
    constraint one_entry_per_position primary key (ledger_id, position),
    constraint one_entry_per_id unique (ledger_id, id),
    constraint entry_format check (
        position >= 1
        and octet_length(hash) = 32 and octet_length(prev_hash) = 32 and octet_length(body_hash) = 32
        and (resource_type is null) = (resource_id is null)
        -- A salt, or (erased) neither salt nor texts.
        and coalesce(octet_length(salt), 16 + num_nonnulls(before, after, metadata)) = 16
    ),
    -- The rules of ledger/rules.py.
    constraint entry_rules check (
        ledger.keeps_rules(
            position, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
            before, after, metadata, salt, concat(before, after, metadata)
        )
    )
);
create index audit_logs_by_actor on ledger.audit_logs (ledger_id, actor, position);
create index audit_logs_by_resource on ledger.audit_logs (ledger_id, resource_type, resource_id, position);
create index audit_logs_by_time on ledger.audit_logs (ledger_id, recorded_at);

create trigger move_tail after insert on ledger.audit_logs
    referencing new table as added for each statement execute function ledger.move_tail();
create trigger granted_ledger after insert on ledger.audit_logs
    referencing new table as added for each statement execute function ledger.check_writer();
create trigger append_only before update or delete or truncate on ledger.audit_logs
    for each statement execute function ledger.refuse_change('ledger.entry_erased');
-- For what append_only has let through.
create trigger only_bodies before update on ledger.audit_logs
    for each row when (current_setting('ledger.own', true) <> '') execute function ledger.refuse_more_than_bodies();
-- AFTER, because a BEFORE ROW trigger would take COPY its way of many rows at a time.
create trigger own_actions after insert on ledger.audit_logs
    for each row when (new.action ^@ 'ledger.') execute function ledger.refuse_own_action();
alter table ledger.audit_logs enable always trigger move_tail;
alter table ledger.audit_logs enable always trigger granted_ledger;
alter table ledger.audit_logs enable always trigger append_only;
alter table ledger.audit_logs enable always trigger only_bodies;
alter table ledger.audit_logs enable always trigger own_actions;

-- No row-level security: Postgres refuses COPY FROM on a table with it, and COPY is the writers' quick way. So readers
-- have the view `entries`.
grant insert on ledger.audit_logs to ledger_writer;
grant select on ledger.audit_logs to ledger_projector;
