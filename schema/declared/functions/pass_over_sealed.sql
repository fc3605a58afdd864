-- Lets the looks of this session at the outbox begin behind the events of a ledger that are gone for good. Else each would
-- pass over all that were removed since the oldest transaction anywhere began, because VACUUM keeps those.
-- An event of a low seq may become visible late, but who takes a seq has a transaction id by then (ledger.record sees to
-- it). So a mark, a seq and a transaction id that was assigned later, says: no transaction from that id on takes that seq
-- or a lower one. Once all before that id have ended, what is not visible up to that seq never will be.
-- Both are kept in settings of the session. A crash of the server, which may bring sealed events back, ends that.
create function ledger.pass_over_sealed(ledger int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gone bigint := coalesce(nullif(current_setting('ledger.gone_' || ledger, true), ''), '0');
    mark constant text[] := string_to_array(nullif(current_setting('ledger.mark_' || ledger, true), ''), ' ');
    newest bigint;
begin
    if pg_current_xact_id_if_assigned() is not null then
        return;  -- a mark needs an id that is newer than the seq
    end if;
    if mark[2]::xid8 > pg_snapshot_xmin(pg_current_snapshot()) then
        return;
    end if;
    if mark is not null then
        select least(mark[1]::bigint, min(waiting.seq) - 1) into gone
        from ledger.outbox as waiting where waiting.ledger_id = $1 and waiting.seq > gone;
        perform set_config('ledger.gone_' || ledger, gone::text, false);
    end if;
    select case when is_called then last_value else 0 end into newest from ledger.outbox_seq_seq;
    perform set_config('ledger.mark_' || ledger, newest || ' ' || pg_current_xact_id(), false);
end
$$;

grant execute on function ledger.pass_over_sealed to ledger_projector;
