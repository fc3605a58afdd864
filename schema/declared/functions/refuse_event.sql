-- Says why an event cannot be recorded. field: the argument of ledger.record.
create function ledger.refuse_event(field text, problem text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the event is refused: %: %', field, problem using errcode = 'LE013', column = field;
end
$$;
