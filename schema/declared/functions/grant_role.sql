-- Makes a user a member of one of the groups. ledger_ids: what a reader may read, besides what it may already; NULL for
-- all ledgers, those to come among them.
create function ledger.grant_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    grants constant text := case granted
        when 'ledger_reader' then 'readers' when 'ledger_writer' then 'writers' when 'ledger_recorder' then 'recorders'
    end;
begin
    perform ledger.check_grant(granted, grantee);
    execute format('grant %I to %I', granted, grantee);
    if grants is not null then
        execute format(
            'insert into ledger.%I (ledger_id, role)'
            ' select id, $1 from unnest(coalesce($2, array[null::int])) as id on conflict do nothing', grants
        ) using quote_ident(grantee)::regrole, ledger_ids;
    end if;
end
$$;

grant execute on function ledger.grant_role to ledger_admin;
