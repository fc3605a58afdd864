-- A client that has nothing but SQL, as one in Node, Go or PHP has: any driver sends the same statements.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f examples/psql.sql
--
-- The user needs the role ledger_recorder, and CREATE on the schema public for the table of this example.
-- `auditledger run` seals what is recorded. The ledger then has:
--
--     user:42    invoice.sent     invoice 7
--     job:night  invoice.overdue  invoice 8

create table if not exists public.invoices (id int primary key, status text not null);
insert into public.invoices values ('7', 'draft'), ('8', 'sent') on conflict do nothing;

-- The context of the transaction: who does it, and why. Triggers of captured tables read it, too.
-- With a driver the JSON text is a parameter: select set_config('ledger.context', $1, true).
begin;
select set_config(
    'ledger.context', '{"actor": "user:42", "metadata": {"reason": "ticket 7", "request": {"id": "req-1"}}}', true
);
update public.invoices set status = 'sent' where id = '7';
select ledger.record(
    'main', action => 'invoice.sent', resource_type => 'invoice', resource_id => '7',
    before => '{"status": "draft"}', after => '{"status": "sent"}',
    metadata => to_json(current_setting('ledger.context')::json -> 'metadata')
);
commit;

-- What is rolled back is not in the ledger.
begin;
select ledger.record('main', actor => 'user:42', action => 'invoice.deleted', resource_type => 'invoice', resource_id => '7');
rollback;

-- A savepoint that is rolled back takes its events with it, and nothing else.
begin;
update public.invoices set status = 'overdue' where id = '8';
select ledger.record('main', actor => 'job:night', actor_type => 'service', action => 'invoice.overdue',
    resource_type => 'invoice', resource_id => '8', after => '{"status": "overdue"}');
savepoint mail;
select ledger.record('main', actor => 'job:night', action => 'mail.sent', resource_type => 'invoice', resource_id => '8');
rollback to savepoint mail;
commit;
