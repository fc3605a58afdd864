-- Roles belong to the cluster, not to a database. Six groups that nobody logs in with; users are made members of them
-- ('auditledger grant'). Superusers are beyond all this.

create role ledger_owner;  -- everything belongs to it; it never logs in either
create role ledger_recorder;  -- records events, which are appended soon; reads nothing
create role ledger_writer;  -- appends; reads no body
create role ledger_reader;  -- reads the ledgers that ledger.readers names for it, and their views
create role ledger_projector;  -- the workers: reads every ledger, publishes, makes and fills the read views
create role ledger_eraser;  -- erases bodies, places and releases legal holds
create role ledger_admin;  -- creates ledgers, opens epochs, rotates keys, places and releases holds, grants these roles

-- Grants the groups; and ledger_projector's tables are its own.
grant ledger_recorder, ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin to ledger_owner with admin option;
