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
    -- The rules of ledger/rules.py that SQL can see.
    constraint entry_times check (
        recorded_at >= to_timestamp(-62135596800) and recorded_at < to_timestamp(253402300800)
        and occurred_at >= to_timestamp(-62135596800) and occurred_at < to_timestamp(253402300800)
    ),
    constraint actor_length check (char_length(actor) >= 1 and char_length(actor) <= 255),
    constraint actor_type_length check (char_length(actor_type) >= 1 and char_length(actor_type) <= 64),
    constraint action_length check (char_length(action) >= 1 and char_length(action) <= 128),
    constraint resource_type_length
        check (char_length(resource_type) >= 1 and char_length(resource_type) <= 64),
    constraint resource_id_length
        check (char_length(resource_id) >= 1 and char_length(resource_id) <= 255),
    -- 262,144 less the body's own punctuation and its salt.
    constraint body_size check (
        octet_length(concat(before, after, metadata)) + 4 * num_nulls(before, after, metadata) <= 262070
    ),
    constraint body_line_breaks check (
        strpos(concat(before, after, metadata), chr(10)) = 0 and strpos(concat(before, after, metadata), chr(13)) = 0
    ),
    -- \u0000 and lone surrogates, once escaped backslashes and pairs of surrogates are taken out.
    constraint body_characters check (
        strpos(concat(before, after, metadata), e'\\') = 0
        or regexp_replace(
            concat(before, after, metadata), e'\\\\\\\\|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', ' ', 'g'
        ) !~ e'\\\\u(0000|[dD][89a-fA-F])'
    ),
    -- Few have more than 64 brackets; only then are the levels counted.
    constraint body_depth check (
        octet_length(concat(before, after, metadata))
            - octet_length(replace(replace(concat(before, after, metadata), '[', ''), '{', '')) <= 64
        or jsonb_path_exists(before::jsonb, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')
            is not true
        and jsonb_path_exists(after::jsonb, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')
            is not true
        and jsonb_path_exists(metadata::jsonb, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')
            is not true
    ),
    -- Which actions there are is for the trigger own_actions: only the schema's functions record any.
    constraint own_entry_form check (
        not action ^@ 'ledger.' or salt is null or coalesce(
            case
                when action = 'ledger.entry_erased'
                    then resource_type = 'ledger.entry' and resource_id ~ '^[1-9][0-9]{0,17}$'
                when action in ('ledger.hold_placed', 'ledger.hold_released')
                    then resource_type <> 'ledger.entry' or resource_id ~ '^[1-9][0-9]{0,17}$'
                when action in ('ledger.entry_skipped', 'ledger.entry_retried')
                    then resource_type = 'ledger.skip' and resource_id ~ '^[a-z][a-z0-9_]*:[1-9][0-9]{0,17}$'
                when action = 'ledger.key_rotated' then resource_type = 'ledger.key'
                else true
            end
            and case
                when action = 'ledger.key_rotated'
                    then before is null and after is null
                    and json_typeof(metadata -> 'old') = 'string' and metadata ->> 'old' <> ''
                    and json_typeof(metadata -> 'new') = 'string' and metadata ->> 'new' <> ''
                when action in (
                    'ledger.entry_erased', 'ledger.hold_placed', 'ledger.hold_released', 'ledger.entry_skipped',
                    'ledger.entry_retried'
                )
                    then before is null and after is null
                    and json_typeof(metadata -> 'reason') = 'string'
                    and metadata ->> 'reason' ~ e'[^\\u0001-\\u0020]'
                else true
            end,
            false
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
