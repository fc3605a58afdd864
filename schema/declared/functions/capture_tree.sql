-- A captured table with its partitions and the tables that inherit from it, all of which need triggers of their own: those
-- of a table fire for statements that name it.
create function ledger.capture_tree(root regclass) returns setof regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with recursive tree (relation) as (
        select oid from pg_class where oid = root
        union
        select inhrelid from pg_inherits join tree on tree.relation = inhparent
    )
    select tree.relation::regclass from tree join pg_class on pg_class.oid = tree.relation where relkind in ('r', 'p');
end
$$;

grant execute on function ledger.capture_tree to ledger_admin;
