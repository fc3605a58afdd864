create function ledger.check_grant(granted text, grantee text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    groups constant text[] :=
        '{ledger_recorder, ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin}';
begin
    if granted is null or granted <> all (groups) then
        raise exception '% is none of %', granted, array_to_string(groups, ', ') using errcode = '0LP01';
    elsif not exists (select from pg_roles where rolname = grantee) then
        raise exception 'there is no role % in this cluster', grantee using errcode = '0LP01',
            hint = 'CREATE ROLE makes it.';
    elsif grantee = any (groups || 'ledger_owner'::text) then
        raise exception '% is itself one of the ledger''s roles', grantee using errcode = '0LP01';
    end if;
end
$$;
