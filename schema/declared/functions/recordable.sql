-- The id of a ledger in which the caller may record.
create function ledger.recordable(ledger text) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    who constant name := ledger.caller();
    target int;
begin
    select known.ledger_id into target from ledger.ledgers as known where known.name = $1;
    if target is null then
        raise exception 'there is no ledger %', coalesce(quote_literal($1), 'NULL')
            using errcode = 'LE012', column = 'ledger', hint = 'auditledger create NAME makes it.';
    elsif not ledger.may_record(target, who) then
        raise exception '% may not record in ledger %', who, quote_literal($1)
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_recorder USER lets it.';
    end if;
    return target;
end
$$;
