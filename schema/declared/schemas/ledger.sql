-- SQLSTATEs of what the functions and triggers of this schema refuse:
--   LE001  entries that do not continue the tail (a fork, a gap, a wrong link, time running back)
--   LE002  rows that contradict one another or are not whole
--   LE003  a recorded_at that is not within a few seconds of this database's clock
--   LE004  an entry, a tail, a ledger, a tile or a checkpoint would be changed or removed
--   LE005  an action that begins with `ledger.`, and not from the ledger's own functions
--   LE006  there is no such entry
--   LE007  an entry that cannot be erased
--   LE008  a legal hold forbids it
--   LE009  nothing is held that could be released
--   LE010  an entry that cannot be skipped, or is not skipped
--   LE012  there is no such ledger
--   LE013  an event that the format does not allow
--
-- The functions that record `ledger.*` run as the owner of the tables and say in the setting `ledger.own`, for as long
-- as they run, which action is theirs. Anybody may give that setting a value, but only they have it as the owner.

create schema ledger authorization ledger_owner;
comment on schema ledger is 'auditledger: append-only, hash-chained audit entries. Do not write here by hand.';

grant usage on schema ledger to ledger_recorder, ledger_writer, ledger_reader, ledger_projector, ledger_eraser, ledger_admin;
-- Nobody may execute its functions until a grant says so.
alter default privileges for role ledger_owner revoke execute on functions from public;
