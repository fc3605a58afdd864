-- Bodies can be guessed, so an answer costs what an append does: it holds the ledger's tail, so that there is one at a
-- time and appends wait for it; it tells of one body that differs, and not in which field; and that takes 5 ms.
create function ledger.first_difference(ledger_id int, ids uuid[], befores text[], afters text[], metadatas text[])
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    first bigint;
begin
    perform ledger.check_write($1, ledger.caller());
    perform from ledger.tails as tail where tail.ledger_id = $1 for update;
    if (select count(*) <> count(distinct id) from unnest($2) as id) and (
        select count(distinct said) <> count(distinct said.id)
        from unnest($2, $3, $4, $5) as said (id, before, after, metadata)
    ) then
        raise exception 'an id stands for more than one body: each is compared once' using errcode = 'LE002';
    end if;
    select min(said.number) into first
    from unnest($2, $3, $4, $5) with ordinality as said (id, before, after, metadata, number)
    join ledger.audit_logs as entry on entry.ledger_id = $1 and entry.id = said.id
    where entry.salt is not null
        and (entry.before::text, entry.after::text, entry.metadata::text)
            is distinct from (said.before, said.after, said.metadata);
    if first is not null then
        perform pg_sleep(0.005);
    end if;
    return first;
end
$$;
comment on function ledger.first_difference is
    'The first of these ids, by its number, whose recorded body is not the one given; NULL where all are.';

grant execute on function ledger.first_difference to ledger_writer;
