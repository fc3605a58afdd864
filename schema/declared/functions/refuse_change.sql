-- Refuses, unless the trigger's argument names the own action that is under way (schemas/ledger.sql).
create function ledger.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_nargs > 0 and tg_op in ('INSERT', 'UPDATE') and current_setting('ledger.own', true) = tg_argv[0]
        and current_user = (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid)
    then
        return null;
    end if;
    raise exception '% on %.% is refused: %', tg_op, tg_table_schema, tg_table_name,
        case tg_table_name
            when 'holds' then 'only ledger.place_hold and ledger.release_hold change what is held'
            when 'skips' then 'only ledger.skip_entry and ledger.retry_entry change what is skipped'
            else 'entries of an audit ledger are never changed or removed'
        end
        using errcode = 'LE004';
end
$$;
