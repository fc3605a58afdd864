-- The reverse. ledger_ids: what a reader may read no longer; the role goes with the last of them. NULL: the role at once.
create function ledger.revoke_role(granted text, grantee text, ledger_ids int[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    grants constant text := case granted
        when 'ledger_reader' then 'readers' when 'ledger_writer' then 'writers' when 'ledger_recorder' then 'recorders'
    end;
    has_all boolean;
    has_more boolean;
begin
    perform ledger.check_grant(granted, grantee);
    if grants is not null then
        execute format('select bool_or(ledger_id is null) from ledger.%I where role = $1', grants)
            into has_all using quote_ident(grantee)::regrole;
        if ledger_ids is not null and has_all then
            raise exception '% % all ledgers: revoke the role without naming one, then grant it those that are left',
                grantee, case granted
                    when 'ledger_reader' then 'reads' when 'ledger_writer' then 'appends to' else 'records in'
                end using errcode = '0LP01';
        end if;
        execute format('delete from ledger.%I where role = $1 and ($2 is null or ledger_id = any ($2))', grants)
            using quote_ident(grantee)::regrole, ledger_ids;
        execute format('select exists (select from ledger.%I where role = $1)', grants)
            into has_more using quote_ident(grantee)::regrole;
        if has_more then
            return;
        end if;
    end if;
    execute format('revoke %I from %I', granted, grantee);
    -- ADMIN OPTION alone, which whoever created the role has, gives nothing of it.
    if exists (
        select from pg_roles
        where rolname = grantee and not rolsuper and (
            pg_has_role(oid, to_regrole(granted), 'usage') or pg_has_role(oid, to_regrole(granted), case
                when current_setting('server_version_num')::int >= 160000 then 'set' else 'member'
            end)
        )
    ) then
        raise exception '% has % through another role, or by the grant of somebody else, who has to revoke it: nothing was'
            ' changed', grantee, granted using errcode = '0LP01';
    end if;
end
$$;

grant execute on function ledger.revoke_role to ledger_admin;
