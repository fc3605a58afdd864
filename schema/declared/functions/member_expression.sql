-- The SQL expression of what is recorded of a column, as JSON text that is never NULL.
create function ledger.member_expression(value text, type oid, treatment text, policy ledger.captures) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if treatment = 'redact' then
        return quote_literal('{"$redacted":true}');
    end if;
    policy.cards := policy.cards and treatment = 'plain';
    return format(
        case treatment when 'digest' then 'ledger.digest_of(coalesce(%s, ''null''))' else 'coalesce(%s, ''null'')' end,
        ledger.json_expression(value, type, policy)
    );
end
$$;
