create function ledger.refuse_tree_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_nargs > 0 and tg_op = 'DELETE' and current_setting('ledger.own', true) = tg_argv[0]
        and current_user = (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid)
    then
        return null;
    end if;
    raise exception '% on %.% is refused: % are never changed or removed', tg_op, tg_table_schema, tg_table_name,
        case tg_table_name when 'tiles' then 'the tiles of a Merkle tree' else 'signed checkpoints' end
        using errcode = 'LE004';
end
$$;
