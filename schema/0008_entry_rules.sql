-- What format.md demands of each entry and SQL can see, refused by the database itself: no writer, whatever client it
-- has, stores an entry that relays, views and verifiers stumble over. ledger/rules.py has the same rules, by these names.
--
-- NOT VALID: this looks at no entry that is there already, and takes its lock for a moment. `migrate` validates them
-- afterwards, while appends go on (ledger/migrate.py). Where an entry breaks a rule, its constraint stays as it is here:
-- new entries keep it, and verify names the old one.

alter table ledger.audit_logs
    add constraint entry_times check (
        recorded_at >= to_timestamp(-62135596800) and recorded_at < to_timestamp(253402300800)
        and occurred_at >= to_timestamp(-62135596800) and occurred_at < to_timestamp(253402300800)
    ) not valid,
    add constraint actor_length check (char_length(actor) >= 1 and char_length(actor) <= 255) not valid,
    add constraint actor_type_length check (char_length(actor_type) >= 1 and char_length(actor_type) <= 64) not valid,
    add constraint action_length check (char_length(action) >= 1 and char_length(action) <= 128) not valid,
    add constraint resource_type_length
        check (char_length(resource_type) >= 1 and char_length(resource_type) <= 64) not valid,
    add constraint resource_id_length
        check (char_length(resource_id) >= 1 and char_length(resource_id) <= 255) not valid,
    -- 262,144 less the body's own punctuation and its salt.
    add constraint body_size check (
        octet_length(concat(before, after, metadata)) + 4 * num_nulls(before, after, metadata) <= 262070
    ) not valid,
    add constraint body_line_breaks check (
        strpos(concat(before, after, metadata), chr(10)) = 0 and strpos(concat(before, after, metadata), chr(13)) = 0
    ) not valid,
    -- \u0000 and lone surrogates, once escaped backslashes and pairs of surrogates are taken out.
    add constraint body_characters check (
        strpos(concat(before, after, metadata), e'\\') = 0
        or regexp_replace(
            concat(before, after, metadata), e'\\\\\\\\|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', ' ', 'g'
        ) !~ e'\\\\u(0000|[dD][89a-fA-F])'
    ) not valid,
    -- Few have more than 64 brackets; only then are the levels counted.
    add constraint body_depth check (
        octet_length(concat(before, after, metadata))
            - octet_length(replace(replace(concat(before, after, metadata), '[', ''), '{', '')) <= 64
        or jsonb_path_exists(before::jsonb, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')
            is not true
        and jsonb_path_exists(after::jsonb, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')
            is not true
        and jsonb_path_exists(metadata::jsonb, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")')
            is not true
    ) not valid,
    -- Which actions there are is for the trigger own_actions: only the schema's functions record any of them.
    add constraint own_entry_form check (
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
    ) not valid;
