create function ledger.check_reason(entry ledger.audit_logs) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if num_nonnulls(entry.before, entry.after) > 0 or coalesce(btrim(entry.metadata ->> 'reason'), '') = '' then
        raise exception 'an entry % has metadata with a reason, and neither before nor after', entry.action
            using errcode = 'LE002';
    end if;
end
$$;
