-- The id of a ledger in which the caller may record. Whoever may append may record too. Whoever took a group itself (SET
-- ROLE) may do what its login may.
create function ledger.recordable(ledger text) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    who constant name := ledger.caller();
    target int;
begin
    select known.ledger_id into target from ledger.ledgers as known where known.name = $1;
    if target is null then
        raise exception 'there is no ledger %', coalesce(quote_literal($1), 'NULL')
            using errcode = 'LE012', column = 'ledger', hint = 'auditledger create-ledger NAME makes it.';
    elsif not ledger.may_write(target, who) and not exists (
        select from ledger.recorders as recorder
        where (recorder.ledger_id is null or recorder.ledger_id = target)
            and pg_has_role(case who when 'ledger_recorder' then session_user else who end, recorder.role::oid, 'usage')
    ) then
        raise exception '% may not record in ledger %', who, quote_literal($1)
            using errcode = 'insufficient_privilege', hint = 'auditledger grant ledger_recorder USER lets it.';
    end if;
    return target;
end
$$;
