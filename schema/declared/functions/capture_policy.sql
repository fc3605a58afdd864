create function ledger.capture_policy(capture ledger.captures) returns json
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return case when capture.capture_id is not null then
        to_jsonb(capture) - '{capture_id, ledger_id, relation, deny, hints, backfilled, backfill_ended}'::text[]
    end::json;
end
$$;
