-- Full text search cannot use its index below row-level security: Postgres takes the operator @@ for one that could
-- leak. So the words are looked up here, with the owner's rights, for a caller who may read the ledger. A filter that is
-- NULL was not asked for; `action_from` is included, `action_to`, `until` and `before` are not.
create function ledger.timeline_matches(
    ledger_id int, words text, actor text, action text, action_from text, action_to text, action_like text,
    resource_type text, resource_id text, since timestamptz, until timestamptz, before bigint, most int
) returns setof bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Within this function current_user is its owner.
    caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
    if not exists (
        select from ledger.readers as reader
        where (reader.ledger_id is null or reader.ledger_id = $1) and pg_has_role(caller, reader.role::oid, 'usage')
    ) then
        return;
    end if;
    return query execute concat_ws(
        ' and ',
        $sql$select position from ledger_views.timeline where ledger_id = $1$sql$,
        $sql$lexemes @@ websearch_to_tsquery('simple', $2)$sql$,
        case when actor is not null then 'actor = $3' end,
        case when action is not null then 'action = $4' end,
        case when action_from is not null then 'action >= $5' end,
        case when action_to is not null then 'action < $6' end,
        case when action_like is not null then 'action like $7' end,
        case when resource_type is not null then 'resource_type = $8' end,
        case when resource_id is not null then 'resource_id = $9' end,
        case when since is not null then 'occurred_at >= $10' end,
        case when until is not null then 'occurred_at < $11' end,
        case when before is not null then 'position < $12' end
    ) || ' order by position desc limit $13'
    using
        ledger_id, words, actor, action, action_from, action_to, action_like,
        resource_type, resource_id, since, until, before, most;
end
$$;

grant execute on function ledger.timeline_matches to ledger_reader, ledger_projector;
