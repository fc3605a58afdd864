-- The condition of the temporary table that install_capture makes, in Postgres' words. It will run with the rights of
-- ledger_owner, and names mean what they mean in pg_catalog. So it may use only what Postgres brings, nothing volatile, and
-- no column whose type could bring more later: a cast or an operator of a user. It is given enums as text.
create function ledger.plain_condition(relation regclass) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found record;
    stranger text;
begin
    select oid, conrelid, conbin::text as tree, pg_get_expr(conbin, conrelid) as text into strict found
    from pg_constraint where conrelid = 'pg_temp.ledger_condition'::regclass and contype = 'c';
    if exists (
        select attname, atttypid, attcollation from pg_attribute where attrelid = found.conrelid and attnum > 0 and not attisdropped
        except
        select attname, case typtype when 'e' then 'text'::regtype else atttypid end, case typtype when 'e' then 'default'::regcollation else attcollation end
        from pg_attribute join pg_type on pg_type.oid = atttypid where attrelid = relation and attnum > 0 and not attisdropped
    ) then
        raise exception 'the condition is not one on the columns of %', relation using errcode = 'LE013';
    end if;
    select quote_ident(attname) into stranger
    from pg_depend join pg_attribute as used on used.attrelid = refobjid and used.attnum = refobjsubid
    join pg_attribute as generated using (attname)
    where classid = 'pg_constraint'::regclass and objid = found.oid and refobjid = found.conrelid
        and generated.attrelid = relation and generated.attgenerated = 'v' limit 1;
    if stranger is not null then
        raise exception 'the condition uses %, which is a virtual generated column: its value is not at hand', stranger using errcode = 'LE013';
    end if;
    select coalesce(proc.oid::regprocedure::text, pg_describe_object(refclassid, refobjid, 0)) into stranger
    from pg_depend
    left join pg_proc as proc on refclassid = 'pg_proc'::regclass and proc.oid = refobjid
    where classid = 'pg_constraint'::regclass and objid = found.oid and refclassid <> 'pg_class'::regclass and refobjid >= 16384
    union all
    select proc.oid::regprocedure::text
    from regexp_matches(found.tree, ':(?:op)?funcid ([0-9]+)', 'g') as named (ids) join pg_proc as proc on proc.oid = named.ids[1]::oid
    where proc.provolatile = 'v'
    union all
    select format('%I, which is of type %s', attname, format_type(atttypid, null))
    from pg_depend join pg_attribute on attrelid = refobjid and attnum = refobjsubid
    where classid = 'pg_constraint'::regclass and objid = found.oid and refobjid = found.conrelid
        and atttypid >= 16384
    limit 1;
    if stranger is not null then
        raise exception 'the condition uses %: only types of Postgres, enums as text, and immutable and stable functions of Postgres, are allowed', stranger
            using errcode = 'LE013';
    end if;
    return found.text;
end
$$;
