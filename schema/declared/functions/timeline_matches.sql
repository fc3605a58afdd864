-- Full text search cannot use its index below row-level security: Postgres takes the operator @@ for one that could
-- leak. So the words are looked up here, with the owner's rights, for a caller who may read the ledger. A filter that is
-- NULL was not asked for; `action_from` is included, `action_to`, `until` and `before` are not.
create function ledger.timeline_matches(
    ledger_id int, words text, actor text, action text, action_from text, action_to text, action_like text,
    resource_type text, resource_id text, since timestamptz, until timestamptz, before bigint, most int
) returns setof bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not ledger.may_read($1, ledger.caller()) then
        return;
    end if;
    perform ledger.lock_plain('timeline');
    return query execute pg_catalog.concat_ws(
        ' and ',
        $sql$select position from ledger_views.timeline where ledger_id operator(pg_catalog.=) $1$sql$,
        $sql$lexemes operator(pg_catalog.@@) pg_catalog.websearch_to_tsquery('pg_catalog.simple', $2)$sql$,
        case when actor is not null then 'actor operator(pg_catalog.=) $3' end,
        case when action is not null then 'action operator(pg_catalog.=) $4' end,
        case when action_from is not null then 'action operator(pg_catalog.>=) $5' end,
        case when action_to is not null then 'action operator(pg_catalog.<) $6' end,
        case when action_like is not null then 'action operator(pg_catalog.~~) $7' end,
        case when resource_type is not null then 'resource_type operator(pg_catalog.=) $8' end,
        case when resource_id is not null then 'resource_id operator(pg_catalog.=) $9' end,
        case when since is not null then 'occurred_at operator(pg_catalog.>=) $10' end,
        case when until is not null then 'occurred_at operator(pg_catalog.<) $11' end,
        case when before is not null then 'position operator(pg_catalog.<) $12' end
    ) operator(pg_catalog.||) ' order by position desc limit $13'
    using
        ledger_id, words, actor, action, action_from, action_to, action_like,
        resource_type, resource_id, since, until, before, most;
end
$$;

-- It reads what ledger_projector owns, so it runs as that. The group cannot replace it, having no rights in the schema; it
-- can change how it is called, so that it names each function and operator by its schema, and looks at the table first.
grant create on schema ledger to ledger_projector;
alter function ledger.timeline_matches owner to ledger_projector;
revoke create on schema ledger from ledger_projector;
grant execute on function ledger.timeline_matches to ledger_reader;
