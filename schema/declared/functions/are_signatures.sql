-- Signature lines of a C2SP signed-note, as ledger/note.py reads them.
create function ledger.are_signatures(lines text[]) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    -- What Unicode calls a space, beyond those that every locale does.
    spaces constant text := chr(133) || chr(160) || chr(5760) || chr(8192) || '-' || chr(8202) || chr(8232) || chr(8233)
        || chr(8239) || chr(8287) || chr(12288);
    line text;
    data constant text := ' [A-Za-z0-9+/]{6,}={0,2}$';
begin
    foreach line in array lines loop
        if line !~ (chr(94) || chr(8212) || ' [^[:space:][:cntrl:]+' || spaces || ']+' || data) then
            return false;
        end if;
        line := split_part(line, ' ', 3);
        if octet_length(decode(line, 'base64')) < 5 or translate(encode(decode(line, 'base64'), 'base64'), chr(10), '') <> line then
            return false;
        end if;
    end loop;
    return cardinality(lines) > 0;
exception when data_exception then
    return false;
end
$$;
