-- The hash of a body as it stands (format.md, "Body"); null where there is no salt.
create function ledger.hash_of_body(entry ledger.audit_logs) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return ledger.blake3(convert_to(
        '{"after":' || coalesce(entry.after::text, 'null') || ',"before":' || coalesce(entry.before::text, 'null')
        || ',"metadata":' || coalesce(entry.metadata::text, 'null')
        || ',"salt":"' || encode(entry.salt, 'hex') || '"}',
        'UTF8'
    ));
end
$$;
