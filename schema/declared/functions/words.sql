-- The words of a key, as capture/deny_patterns.py has them: apiKey2, API-KEY-2 and api_key_2 are api_key_2.
create function ledger.words(key text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    -- e'': a session keeps what it has once read, whatever its standard_conforming_strings was.
    key := regexp_replace(key, '([a-z])([A-Z])', e'\\1_\\2', 'g');
    key := regexp_replace(key, '([A-Z])([A-Z][a-z])', e'\\1_\\2', 'g');
    key := regexp_replace(key, '([A-Za-z])([0-9])', e'\\1_\\2', 'g');
    key := regexp_replace(key, '([0-9])([A-Za-z])', e'\\1_\\2', 'g');
    key := regexp_replace(key, e'[\\u0020-\\u002f\\u003a-\\u0040\\u005b-\\u0060\\u007b-\\u007e]+', '_', 'g');
    return lower(trim(both '_' from key));
end
$$;
