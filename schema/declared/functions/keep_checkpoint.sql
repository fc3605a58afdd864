-- Keeps a signed checkpoint; to one that is there, adds the signature lines that it lacks, as long as there is room.
-- Returns the note that is kept then. Whether a signature verifies is for its readers to know.
create function ledger.keep_checkpoint(ledger_id int, size bigint, root bytea, note text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    whose constant text := split_part(note, chr(10), 1);
    head constant text := whose || chr(10) || size || chr(10) || encode(root, 'base64') || chr(10) || chr(10);
    lines constant text[] := string_to_array(rtrim(substr(note, length(head) + 1), chr(10)), chr(10));
    most constant int := 100;
    there text[];
    kept text;
begin
    if octet_length(note) <= 65536 and whose !~ '[[:cntrl:]]' and note ^@ head
        and note = head || array_to_string(lines, chr(10)) || chr(10) and ledger.are_signatures(lines)
        and exists (select from ledger.ledgers as owned where owned.ledger_id = $1 and whose like '_%/' || owned.name)
    then
        null;
    else
        raise exception 'not a signed checkpoint of size %', size using errcode = 'LE020';
    end if;
    perform pg_advisory_xact_lock(710183013, $1);
    if root is distinct from ledger.tree_root($1, size) then
        raise exception 'the root of the first % entries is another one', size using errcode = 'LE020';
    end if;
    select checkpoint.note into kept from ledger.checkpoints as checkpoint
    where checkpoint.ledger_id = $1 and checkpoint.size = $2 and checkpoint.origin = whose for update;
    if kept is null then
        insert into ledger.checkpoints (ledger_id, size, root, note)
        values ($1, $2, $3, head || array_to_string(lines[:most], chr(10)) || chr(10)) returning checkpoints.note into kept;
        return kept;
    elsif not kept ^@ head then
        raise exception 'another checkpoint of size % is kept', size using errcode = 'LE020';
    end if;
    there := string_to_array(rtrim(substr(kept, length(head) + 1), chr(10)), chr(10));
    for place in 1..cardinality(lines) loop
        if lines[place] <> all (there) and cardinality(there) < most then
            there := there || lines[place];
        end if;
    end loop;
    update ledger.checkpoints as checkpoint set note = head || array_to_string(there, chr(10)) || chr(10)
    where checkpoint.ledger_id = $1 and checkpoint.size = $2 and checkpoint.origin = whose
    returning checkpoint.note into kept;
    return kept;
end
$$;

grant execute on function ledger.keep_checkpoint to ledger_projector;
