-- Makes a user a member of one of the groups. ledger_ids: what a reader may read, besides what it may already; NULL for
-- all ledgers, those to come among them.
create function ledger.grant_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform ledger.check_grant(granted, grantee);
    execute format('grant %I to %I', granted, grantee);
    if granted = 'ledger_reader' then
        insert into ledger.readers (ledger_id, role)
        select id, quote_ident(grantee)::regrole from unnest(coalesce(ledger_ids, array[null::int])) as id
        on conflict do nothing;
    end if;
end
$$;

grant execute on function ledger.grant_role to ledger_admin;
