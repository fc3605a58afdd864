create function ledger.differences(ledger_id int, ids uuid[], befores text[], afters text[], metadatas text[])
returns table (number bigint, field text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    select said.number, case
        when entry.before::text is distinct from said.before then 'before'
        when entry.after::text is distinct from said.after then 'after'
        when entry.metadata::text is distinct from said.metadata then 'metadata'
    end
    from unnest($2, $3, $4, $5) with ordinality as said (id, before, after, metadata, number)
    join ledger.audit_logs as entry on entry.ledger_id = $1 and entry.id = said.id
    where entry.salt is not null;
end
$$;
comment on function ledger.differences is
    'Where the body of each recorded entry first differs from the texts given; NULL where it is the same.';

grant execute on function ledger.differences to ledger_writer;
