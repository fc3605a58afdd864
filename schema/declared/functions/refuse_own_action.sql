create function ledger.refuse_own_action() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('ledger.own', true) = new.action
        and current_user = (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid)
    then
        return null;
    end if;
    raise exception 'entry % is refused: only the ledger''s own functions record the action %', new.position, new.action
        using errcode = 'LE005';
end
$$;
