create function ledger.redacted_member(words text, item json, policy ledger.captures) returns json
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if words = any (policy.allow) then
        policy.cards := false;
    elsif words ~ policy.deny then
        return '{"$redacted":true}';
    end if;
    return ledger.redacted(item, policy);
end
$$;
