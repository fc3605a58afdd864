-- Whether the whole text is 13 to 19 digits, with single spaces or dashes between, that pass the check of ISO/IEC 7812-1.
create function ledger.is_card_number(value text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return value ~ '^\s*[0-9](?:[ -]?[0-9]){12,18}\s*$' and (
        select sum(case when place % 2 = 1 then digit else digit * 2 / 10 + digit * 2 % 10 end) % 10 = 0
        from string_to_table(reverse(regexp_replace(value, '[^0-9]', '', 'g')), null) with ordinality as each (text, place),
            cast(text as int) as digit
    );
end
$$;
