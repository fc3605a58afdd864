-- Entries that do not hold: gone past on the record (quarantine), noted where a worker stopped; and a body that is not
-- the one of its envelope is erased only where the erasure says so. SQLSTATE, after those of 0007:
--   LE011  a body that is not the one that its envelope names

create table ledger.suspects (
    ledger_id int not null,
    position bigint not null,
    noted_at timestamptz not null default clock_timestamp(),
    primary key (ledger_id, position)
);
comment on table ledger.suspects is
    'Entries at which a worker stopped: where `status` looks. Whether they hold, it finds out by itself.';

select ledger.restrict_readers('ledger.suspects', 'ledger_projector');
grant select on ledger.suspects to ledger_reader, ledger_projector;

create table ledger.refusals (
    ledger_id int not null,
    origin text not null,
    problem text not null,
    since timestamptz not null default clock_timestamp(),
    primary key (ledger_id, origin)
);
comment on table ledger.refusals is
    'Logs whose signer refused to sign, and what it said: for `status`. Gone with its next signature.';

select ledger.restrict_readers('ledger.refusals', 'ledger_projector');
grant select on ledger.refusals to ledger_reader, ledger_projector;

-- BLAKE3's compression function, of which the first eight words are wanted (BLAKE3 paper, 2.2). Words are bigints.
create function ledger.blake3_compress(cv bigint[], words bigint[], counter bigint, size int, flags int) returns bigint[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    low constant bigint := 4294967295;
    places constant int[] := '{1,5,9,13,2,6,10,14,3,7,11,15,4,8,12,16,1,6,11,16,2,7,12,13,3,8,9,14,4,5,10,15}';
    v bigint[] := cv || '{1779033703,3144134277,1013904242,2773480762}'::bigint[]
        || array[counter & low, counter >> 32, size, flags];
    m bigint[] := words;
    a bigint;
    b bigint;
    c bigint;
    d bigint;
begin
    for round in 1 .. 7 loop
        for mix in 0 .. 7 loop
            a := v[places[mix * 4 + 1]];
            b := v[places[mix * 4 + 2]];
            c := v[places[mix * 4 + 3]];
            d := v[places[mix * 4 + 4]];
            a := (a + b + m[mix * 2 + 1]) & low;
            d := d # a;
            d := ((d >> 16) | (d << 16)) & low;
            c := (c + d) & low;
            b := b # c;
            b := ((b >> 12) | (b << 20)) & low;
            a := (a + b + m[mix * 2 + 2]) & low;
            d := d # a;
            d := ((d >> 8) | (d << 24)) & low;
            c := (c + d) & low;
            b := b # c;
            b := ((b >> 7) | (b << 25)) & low;
            v[places[mix * 4 + 1]] := a;
            v[places[mix * 4 + 2]] := b;
            v[places[mix * 4 + 3]] := c;
            v[places[mix * 4 + 4]] := d;
        end loop;
        m := array[m[3], m[7], m[4], m[11], m[8], m[1], m[5], m[14], m[2], m[12], m[13], m[6], m[10], m[15], m[16], m[9]];
    end loop;
    return array[
        v[1] # v[9], v[2] # v[10], v[3] # v[11], v[4] # v[12], v[5] # v[13], v[6] # v[14], v[7] # v[15], v[8] # v[16]
    ];
end
$$;

-- BLAKE3-256, for what has to be compared with a hash where nobody who can compute it may read what is hashed: an
-- erasure. A body of 1 KiB takes some milliseconds, the largest some seconds: nothing for appends.
create function ledger.blake3(data bytea) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    iv constant bigint[] := '{1779033703,3144134277,1013904242,2773480762,1359893119,2600822924,528734635,1541459225}';
    chunks constant int := greatest(1, (octet_length(data) + 1023) / 1024);
    chunk bytea;
    block bytea;
    words bigint[];
    blocks int;
    cv bigint[];
    waiting bigint[] := '{}';  -- the chaining values of finished subtrees, 8 words each
    finished int;
    root int;
    result bytea := '';
begin
    for number in 0 .. chunks - 1 loop
        chunk := substring(data from number * 1024 + 1 for 1024);
        blocks := greatest(1, (octet_length(chunk) + 63) / 64);
        cv := iv;
        for at in 0 .. blocks - 1 loop
            block := substring(chunk from at * 64 + 1 for 64);
            words := array(
                select get_byte(padded, word * 4)::bigint + (get_byte(padded, word * 4 + 1)::bigint << 8)
                    + (get_byte(padded, word * 4 + 2)::bigint << 16) + (get_byte(padded, word * 4 + 3)::bigint << 24)
                from (select block || decode(repeat('00', 64 - octet_length(block)), 'hex')) as whole (padded),
                    generate_series(0, 15) as word
                order by word
            );
            root := case when chunks = 1 and at = blocks - 1 then 8 else 0 end;
            cv := ledger.blake3_compress(
                cv, words, number, octet_length(block),
                case when at = 0 then 1 else 0 end + case when at = blocks - 1 then 2 else 0 end + root
            );
        end loop;
        finished := number + 1;
        -- The last chunk joins all that waits; any other, what is as large as itself.
        while cardinality(waiting) > 0 and (number = chunks - 1 or finished % 2 = 0) loop
            root := case when number = chunks - 1 and cardinality(waiting) = 8 then 8 else 0 end;
            cv := ledger.blake3_compress(iv, waiting[cardinality(waiting) - 7:] || cv, 0, 64, 4 + root);
            waiting := waiting[:cardinality(waiting) - 8];
            finished := finished / 2;
        end loop;
        waiting := waiting || cv;
    end loop;
    for word in 1 .. 8 loop
        for shift in 0 .. 3 loop
            result := result || set_byte('\x00'::bytea, 0, ((cv[word] >> (shift * 8)) & 255)::int);
        end loop;
    end loop;
    return result;
end
$$;

-- The hash of a body as it stands (format.md, "Body"); null where there is no salt.
create function ledger.hash_of_body(entry ledger.audit_logs) returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return ledger.blake3(convert_to(
        '{"after":' || coalesce(entry.after::text, 'null') || ',"before":' || coalesce(entry.before::text, 'null')
        || ',"metadata":' || coalesce(entry.metadata::text, 'null')
        || ',"salt":"' || encode(entry.salt, 'hex') || '"}',
        'UTF8'
    ));
end
$$;

-- What the hash of a body is, in hex, and whether that is the one that its entry's envelope names. Of a body that was
-- erased, what its erasure says of it (null where it matched), and null. For those who may erase, and need not read for that.
create function ledger.body_digest(ledger_id int, about text, out digest text, out matches boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    entry ledger.audit_logs;
begin
    if about ~ '^[1-9][0-9]{0,17}$' then
        select * into entry from ledger.audit_logs as stored
        where stored.ledger_id = $1 and stored.position = about::bigint;
    end if;
    if entry.salt is null then
        select said.metadata ->> 'mismatched' into digest from ledger.audit_logs as said
        where said.ledger_id = $1 and said.resource_type = 'ledger.entry' and said.resource_id = about
            and said.action = 'ledger.entry_erased'
        order by said.position limit 1;
    else
        digest := encode(ledger.hash_of_body(entry), 'hex');
        matches := digest is not distinct from encode(entry.body_hash, 'hex');
    end if;
end
$$;
grant execute on function ledger.body_digest to ledger_eraser;

-- Removes the body of the entry that `erasure` names, and records `erasure`. Returns the entry that says so: `erasure`,
-- or the one of before where the body was erased already; then nothing is recorded. A body that is not the one that the
-- envelope names is evidence: it goes only where the erasure says what stood there.
create or replace function ledger.erase_entry(erasure ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    target ledger.audit_logs;
    done ledger.audit_logs;
    held bigint;
    digest text;
begin
    perform set_config('ledger.own', 'ledger.entry_erased', true);
    perform ledger.check_reason(erasure);
    if erasure.resource_type is distinct from 'ledger.entry' then
        raise exception 'an erasure names a ledger.entry, not a %', erasure.resource_type using errcode = 'LE002';
    end if;
    target := ledger.named_entry(erasure);
    if target.action ^@ 'ledger.' then
        raise exception 'entry % is the ledger''s own (%): such entries cannot be erased',
            target.position, target.action using errcode = 'LE007';
    end if;
    if target.salt is null then
        select * into done from ledger.audit_logs
        where ledger_id = target.ledger_id and resource_type = 'ledger.entry' and resource_id = target.position::text
            and action = 'ledger.entry_erased' and position > target.position
        order by position limit 1;
        if done.position is null then
            raise exception 'the body of entry % is gone, and no entry says who erased it: verify the ledger',
                target.position using errcode = 'LE007';
        end if;
        perform set_config('ledger.own', '', true);
        return done;
    end if;
    select placed into held from ledger.holds
    where ledger_id = target.ledger_id and released is null
        and (resource_type, resource_id) in (
            ('ledger.entry', target.position::text), (target.resource_type, target.resource_id)
        )
    limit 1;
    if held is not null then
        raise exception 'entry % is under the legal hold of entry %: nothing was erased', target.position, held
            using errcode = 'LE008';
    end if;
    digest := encode(ledger.hash_of_body(target), 'hex');
    if decode(digest, 'hex') is distinct from target.body_hash
        and erasure.metadata ->> 'mismatched' is distinct from digest
    then
        raise exception 'the body of entry % is not the one that its envelope names: nothing was erased',
            target.position using errcode = 'LE011';
    elsif decode(digest, 'hex') = target.body_hash and erasure.metadata ->> 'mismatched' is not null then
        raise exception 'the body of entry % is the one that its envelope names', target.position
            using errcode = 'LE002';
    end if;
    update ledger.audit_logs set before = null, after = null, metadata = null, salt = null
    where ledger_id = target.ledger_id and position = target.position;
    perform ledger.insert_own(erasure);
    perform set_config('ledger.own', '', true);
    return erasure;
end
$$;

-- Records that the entry at a position does not hold, what was found, and the digests of what stands there: workers go
-- on past it as long as just that stands there and does not hold. Returns the entry that says so: `entry`, or the one of
-- before that says the same; then nothing is recorded. Hashes are the caller's to compute, and the workers' to check.
create function ledger.quarantine_entry(entry ledger.audit_logs) returns ledger.audit_logs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    done ledger.audit_logs;
    chained bytea;
begin
    perform set_config('ledger.own', 'ledger.entry_quarantined', true);
    perform ledger.check_reason(entry);
    if entry.resource_type is distinct from 'ledger.entry' or entry.resource_id !~ '^[1-9][0-9]{0,17}$'
        or (entry.metadata ->> 'hash') !~ '^[0-9a-f]{64}$' is not false
        or coalesce(entry.metadata ->> 'row', '') !~ '^([0-9a-f]{64})?$'
        or coalesce(entry.metadata ->> 'body', '') !~ '^([0-9a-f]{64})?$'
        or coalesce(entry.metadata ->> 'found', '') = ''
    then
        raise exception 'a quarantine names a ledger.entry, what was found, and the digests of what stands there'
            using errcode = 'LE002';
    elsif entry.resource_id::bigint >= entry.position then
        raise exception 'there is no entry % yet: the ledger ends at %', entry.resource_id, entry.position - 1
            using errcode = 'LE006';
    end if;
    -- By which hash the chain goes on is no opinion: a false one would make the entry after it one that does not hold.
    chained := coalesce((
        select after.prev_hash from ledger.audit_logs as after
        where after.ledger_id = entry.ledger_id and after.position = entry.resource_id::bigint + 1
        limit 1
    ), case entry.position - 1 when entry.resource_id::bigint then entry.prev_hash else decode(repeat('00', 32), 'hex') end);
    if decode(entry.metadata ->> 'hash', 'hex') <> chained then
        raise exception 'the chain goes on from entry % by another hash: nothing was recorded', entry.resource_id
            using errcode = 'LE002';
    end if;
    select * into done from ledger.audit_logs as said
    where said.ledger_id = entry.ledger_id and said.resource_type = 'ledger.entry'
        and said.resource_id = entry.resource_id and said.action = 'ledger.entry_quarantined'
    order by said.position desc limit 1;
    if not found or (done.metadata::jsonb - 'reason') is distinct from (entry.metadata::jsonb - 'reason') then
        perform ledger.insert_own(entry);
        done := entry;
    end if;
    perform set_config('ledger.own', '', true);
    return done;
end
$$;
grant execute on function ledger.quarantine_entry to ledger_admin;

-- Notes an entry at which a worker stopped, for `status` to look at.
create function ledger.suspect_entry(ledger_id int, entry_position bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into ledger.suspects (ledger_id, position) values ($1, entry_position)
    on conflict on constraint suspects_pkey do update set noted_at = clock_timestamp();
    delete from ledger.suspects as old
    where old.ledger_id = $1 and old.position not in (
        select newer.position from ledger.suspects as newer
        where newer.ledger_id = $1 order by newer.noted_at desc limit 100
    );
end
$$;
grant execute on function ledger.suspect_entry to ledger_projector;

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

-- What the leaf of a quarantined entry is of (format.md, "Quarantine"); null where no record names the entry. One that
-- holds all the same has its envelope, whatever a record says.
create function ledger.quarantined_leaf(ledger_id int, entry_position bigint) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    chained bytea;
    found record;
    before bytea;
    after bytea;
    computed bytea;
begin
    select decode(said.metadata ->> 'hash', 'hex') into chained from ledger.audit_logs as said
    where said.ledger_id = $1 and said.resource_type = 'ledger.entry' and said.resource_id = entry_position::text
        and said.action = 'ledger.entry_quarantined' and said.position > entry_position
    order by said.position desc limit 1;
    if chained is null then
        return null;
    end if;
    select entry.prev_hash, entry.hash, case
        when least(entry.recorded_at, entry.occurred_at) >= '0001-01-01 00:00:00+00'
            and greatest(entry.recorded_at, entry.occurred_at) < '10000-01-01 00:00:00+00'
        then convert_to(stored.envelope, 'UTF8')
    end as envelope
    into found
    from ledger.audit_logs as entry join ledger.envelopes as stored using (ledger_id, position)
    where entry.ledger_id = $1 and entry.position = entry_position;
    if found.envelope is null then
        return chained;
    end if;
    computed := ledger.blake3(found.envelope);
    select entry.hash into before from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.position = entry_position - 1;
    select entry.prev_hash into after from ledger.audit_logs as entry
    where entry.ledger_id = $1 and entry.position = entry_position + 1;
    if computed = chained or (computed = found.hash and computed = after
        and found.prev_hash = case when entry_position = 1 then decode(repeat('00', 32), 'hex') else before end)
    then
        return found.envelope;
    end if;
    return chained;
end
$$;

-- As in 0009, with the leaves of quarantined entries.
create or replace function ledger.make_tile(ledger_id int, level smallint, index bigint, first int, last int) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    start constant bigint := index * 256 + 1;
    timeless bigint[];
    quarantined bigint[];
    made bytea;
begin
    if level = 0 then
        timeless := array(
            select entry.position from ledger.audit_logs as entry
            where entry.ledger_id = $1 and entry.position between start + first and start + last and (
                least(entry.recorded_at, entry.occurred_at) < '0001-01-01 00:00:00+00'
                or greatest(entry.recorded_at, entry.occurred_at) >= '10000-01-01 00:00:00+00'
            )
        );
        quarantined := array(
            select distinct said.resource_id::bigint from ledger.audit_logs as said
            where said.ledger_id = $1 and said.resource_type = 'ledger.entry'
                and said.resource_id = any (array(select at::text from generate_series(start + first, start + last) as at))
                and said.action = 'ledger.entry_quarantined' and said.position > said.resource_id::bigint
        );
        select string_agg(sha256(decode('00', 'hex') || leaf.data), ''::bytea order by leaf.position) into made
        from (
            select envelopes.position, case
                when envelopes.position = any (timeless) then '' else convert_to(envelopes.envelope, 'UTF8')
            end
            from ledger.envelopes
            where envelopes.ledger_id = $1 and envelopes.position between start + first and start + last
                and envelopes.position <> all (quarantined)
            union all
            select at, ledger.quarantined_leaf($1, at) from unnest(quarantined) as at
        ) as leaf (position, data);
    else
        select string_agg(ledger.merkle_root(tile.hashes), ''::bytea order by tile.index) into made
        from ledger.tiles as tile
        where tile.ledger_id = $1 and tile.level = $2 - 1 and octet_length(tile.hashes) = 8192
            and tile.index between $3 * 256 + first and $3 * 256 + last;
    end if;
    return made;
end
$$;
