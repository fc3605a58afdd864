-- Captures a table: keeps how, and makes the triggers where they are not as they should be. Runs with the rights of its
-- caller, who owns the table. policy: as capture/tables.py makes it.
create function ledger.install_capture(relation regclass, policy jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
    id int;
    of_enum name;
    wrong record;
begin
    if policy ->> 'condition' is not null then
        execute format('create temp table ledger_condition (like %s)', relation);
        for of_enum in
            select attname from pg_attribute join pg_type on pg_type.oid = atttypid
            where attrelid = 'pg_temp.ledger_condition'::regclass and attnum > 0 and typtype = 'e'
        loop
            execute format('alter table pg_temp.ledger_condition alter %I type text using null', of_enum);
        end loop;
        execute format('alter table pg_temp.ledger_condition add constraint condition check (%s)', policy ->> 'condition');
    end if;
    id := ledger.keep_capture(relation, policy);
    drop table if exists pg_temp.ledger_condition;
    for wrong in select * from ledger.capture_triggers(relation) where problem is not null order by source, name loop
        execute format('drop trigger if exists %I on %s', wrong.name, wrong.source);
        execute format(wrong.definition, wrong.name, wrong.source, id);
    end loop;
end
$$;

grant execute on function ledger.install_capture to ledger_admin;
