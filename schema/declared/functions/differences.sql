-- For clients that came before first_difference: it goes on after each answer, at the same price.
create function ledger.differences(
    ledger_id int, ids uuid[], befores text[], afters text[], metadatas text[]
)
returns table (number bigint, field text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done bigint := 0;
    next bigint;
begin
    loop
        next := ledger.first_difference($1, $2[done + 1:], $3[done + 1:], $4[done + 1:], $5[done + 1:]);
        exit when next is null;
        done := done + next;
        number := done;
        field := 'body';
        return next;
    end loop;
end
$$;
comment on function ledger.differences is 'The recorded entries whose body is not the one given.';

grant execute on function ledger.differences to ledger_writer;
