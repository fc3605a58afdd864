-- Notes for `status` that a log's signer refused to sign, and why; a problem of NULL: that it signs again.
create function ledger.note_refusal(ledger_id int, log_origin text, problem text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if problem is null then
        delete from ledger.refusals as old where old.ledger_id = $1 and old.origin = $2;
    elsif char_length(log_origin) <= 300
        and exists (select from ledger.ledgers as owned where owned.ledger_id = $1 and log_origin like '_%/' || owned.name)
    then
        insert into ledger.refusals (ledger_id, origin, problem) values ($1, $2, left($3, 1000))
        on conflict on constraint refusals_pkey do update set
            problem = excluded.problem,
            since = case refusals.problem when excluded.problem then refusals.since else excluded.since end;
        delete from ledger.refusals as old
        where old.ledger_id = $1 and old.origin not in (
            select newer.origin from ledger.refusals as newer
            where newer.ledger_id = $1 order by newer.since desc limit 100
        );
    end if;
end
$$;
grant execute on function ledger.note_refusal to ledger_projector;
