create function ledger.refuse_tree_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '% on %.% is refused: % are never changed or removed', tg_op, tg_table_schema, tg_table_name,
        case tg_table_name when 'tiles' then 'the tiles of a Merkle tree' else 'signed checkpoints' end
        using errcode = 'LE004';
end
$$;
