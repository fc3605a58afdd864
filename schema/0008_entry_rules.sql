-- What format.md demands of each entry and SQL can see, refused by the database itself: no writer, whatever client it
-- has, stores an entry that relays, views and verifiers stumble over. ledger/rules.py has the same rules, by these names.

-- A function, because a constraint's expressions are parsed once a statement, those of a function once a session; and
-- because it says which rule is broken. Which `ledger.` actions there are is for the trigger own_actions: only the
-- schema's functions record any of them.
create function ledger.keeps_rules(
    "position" bigint, recorded_at timestamptz, occurred_at timestamptz, actor text, actor_type text, action text,
    resource_type text, resource_id text, before json, after json, metadata json, salt bytea, texts text
) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    broken constant text := case
        when not (
            recorded_at >= to_timestamp(-62135596800) and recorded_at < to_timestamp(253402300800)
            and occurred_at >= to_timestamp(-62135596800) and occurred_at < to_timestamp(253402300800)
        ) then 'entry_times'
        when not (char_length(actor) >= 1 and char_length(actor) <= 255) then 'actor_length'
        when not (char_length(actor_type) >= 1 and char_length(actor_type) <= 64) then 'actor_type_length'
        when not (char_length(action) >= 1 and char_length(action) <= 128) then 'action_length'
        when not (char_length(resource_type) >= 1 and char_length(resource_type) <= 64) then 'resource_type_length'
        when not (char_length(resource_id) >= 1 and char_length(resource_id) <= 255) then 'resource_id_length'
        -- 262,144 less the body's own punctuation and its salt.
        when not (octet_length(texts) + 4 * num_nulls(before, after, metadata) <= 262070) then 'body_size'
        when not (strpos(texts, chr(10)) = 0 and strpos(texts, chr(13)) = 0) then 'body_line_breaks'
        -- \u0000 and lone surrogates, once escaped backslashes and pairs of surrogates are taken out.
        when not (
            strpos(texts, e'\\') = 0
            or regexp_replace(texts, e'\\\\\\\\|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', ' ', 'g')
            !~ e'\\\\u(0000|[dD][89a-fA-F])'
        ) then 'body_characters'
        -- Few have more than 64 brackets; only then are the levels counted.
        when not (
            octet_length(texts) - octet_length(replace(replace(texts, '[', ''), '{', '')) <= 64
            or jsonb_path_exists(
                ('[' || concat_ws(',', before, after, metadata) || ']')::jsonb,
                'strict $.**{65} ? (@.type() == "array" || @.type() == "object")'
            ) is not true
        ) then 'body_depth'
        when not (
            not action ^@ 'ledger.' or salt is null or coalesce(
                case
                    when action in ('ledger.entry_erased', 'ledger.entry_quarantined')
                        then resource_type = 'ledger.entry' and resource_id ~ '^[1-9][0-9]{0,17}$'
                    when action in ('ledger.hold_placed', 'ledger.hold_released')
                        then resource_type <> 'ledger.entry' or resource_id ~ '^[1-9][0-9]{0,17}$'
                    when action in ('ledger.entry_skipped', 'ledger.entry_retried')
                        then resource_type = 'ledger.skip' and resource_id ~ '^[a-z][a-z0-9_]*:[1-9][0-9]{0,17}$'
                    when action = 'ledger.key_rotated' then resource_type = 'ledger.key'
                    when action = 'ledger.tree_rebuilt' then resource_type = 'ledger.tree'
                    else true
                end
                and case
                    when action = 'ledger.key_rotated'
                        then before is null and after is null
                        and json_typeof(metadata -> 'old') = 'string' and metadata ->> 'old' <> ''
                        and json_typeof(metadata -> 'new') = 'string' and metadata ->> 'new' <> ''
                    when action in (
                        'ledger.entry_erased', 'ledger.hold_placed', 'ledger.hold_released', 'ledger.entry_skipped',
                        'ledger.entry_retried', 'ledger.entry_quarantined', 'ledger.tree_rebuilt'
                    )
                        then before is null and after is null
                        and json_typeof(metadata -> 'reason') = 'string'
                        and metadata ->> 'reason' ~ e'[^\\u0001-\\u0020]'
                    else true
                end,
                false
            )
        ) then 'own_entry_form'
    end;
begin
    if broken is null then
        return true;
    end if;
    raise exception 'entry % is refused: it breaks the rule % of the format', "position", broken
        -- Of anybody else's attempt at an own action, what the trigger own_actions would say.
        using errcode = case when broken = 'own_entry_form' and current_user <> 'ledger_owner' then 'LE005' else '23514' end,
            constraint = broken, schema = 'ledger', table = 'audit_logs',
            hint = 'docs/format.md, "The rules by name", says what each demands.';
end
$$;
comment on function ledger.keeps_rules is
    'True, or an error that names the rule which an entry breaks. texts: before, after and metadata, joined.';
grant execute on function ledger.keeps_rules to ledger_writer;

-- NOT VALID: this looks at no entry that is there already, and takes its lock for a moment. `migrate` validates it
-- afterwards, while appends go on (ledger/migrate.py). Where an entry breaks a rule, it stays as it is here: new entries
-- keep the rules, and verify names the old one.
alter table ledger.audit_logs
    add constraint entry_rules check (
        ledger.keeps_rules(
            position, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
            before, after, metadata, salt, concat(before, after, metadata)
        )
    ) not valid;
