-- Records the next rows of a captured table, in the order of its key, as they are now. Returns how many were read; 0 at the
-- end. Runs with the rights of its caller, who owns the table: the rows go through a temporary table, which is captured.
create function ledger.backfill_capture(relation regclass, batch int) returns int
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'iso_8601' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
    capture record;
    columns text;
    after_last text := 'true';
    last text[];
    many int;
begin
    select * into capture from ledger.begin_backfill(relation);
    if capture.ended then
        return 0;
    end if;
    select string_agg(format('%I', name), ', ' order by place) into columns from unnest(capture.key) with ordinality as each (name, place);
    if capture.backfilled is not null then
        select format('(%s) > (%s)', columns, string_agg(format('cast(%L as %s)', each.value, format_type(atttypid, atttypmod)), ', ' order by each.place))
        into after_last
        from unnest(capture.key, capture.backfilled) with ordinality as each (name, value, place)
        join pg_attribute on attrelid = relation and attname = each.name;
    end if;
    execute format('create temp table ledger_backfill (like %s) on commit drop', relation);
    execute format(
        'create trigger ledger_capture_insert after insert on pg_temp.ledger_backfill referencing new table as new_rows'
        ' for each statement execute function ledger.capture_rows(%L, %L)', capture.capture_id, 'backfilled'
    );
    execute format('insert into pg_temp.ledger_backfill select * from %s where %s order by %s limit %s', relation, after_last, columns, batch);
    get diagnostics many = row_count;
    if many > 0 then
        execute format(
            'select array[%s] from pg_temp.ledger_backfill order by %s limit 1',
            (select string_agg(format('%I::text', name), ', ' order by place) from unnest(capture.key) with ordinality as each (name, place)),
            (select string_agg(format('%I desc', name), ', ' order by place) from unnest(capture.key) with ordinality as each (name, place))
        ) into last;
    end if;
    drop table pg_temp.ledger_backfill;
    perform ledger.keep_backfill(capture.capture_id, last, many < batch);
    return many;
end
$$;

grant execute on function ledger.backfill_capture to ledger_admin;
