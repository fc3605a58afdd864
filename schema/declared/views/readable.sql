-- By current_user: a view does not change it, and neither does SET ROLE's effect get lost.
create view ledger.readable with (security_barrier) as
select ledger.ledger_id, ledger.name
from ledger.ledgers as ledger
where exists (
    select from ledger.readers as reader
    where (reader.ledger_id is null or reader.ledger_id = ledger.ledger_id)
        and pg_has_role(reader.role::oid, 'usage')
);
comment on view ledger.readable is 'The ledgers whose entries and views the current user may read.';

grant select on ledger.readable to ledger_reader, ledger_projector;
