-- name: begin
-- Whoever set this database's search_path must not decide which functions and operators are called here.
begin isolation level repeatable read read only;
set local search_path = pg_catalog, pg_temp;
set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0

-- name: export_snapshot
select pg_export_snapshot();

-- name: import_snapshot
-- The snapshot's name comes from export_snapshot; this statement takes no parameters.
set transaction snapshot '{}';

-- name: tail
select position, hash, recorded_at from ledger.tails where ledger_id = %s;

-- name: source
-- Whoever may read the table reads the table; the others, the entries of their ledgers in the view. In the statements
-- below, {} is the one or the other.
select case when has_table_privilege('ledger.audit_logs', 'select') then 'ledger.audit_logs' else 'ledger.entries' end;

-- name: records
select
    position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    before, after, metadata, salt, body_hash, prev_hash, hash
from {} where ledger_id = %s and position between %s and %s order by position;

-- name: newest
select
    position, id, recorded_at, occurred_at, actor, actor_type, action, resource_type, resource_id,
    before, after, metadata, salt, body_hash, prev_hash, hash
from {} where ledger_id = %s and position between %s and %s order by position desc limit 1;

-- name: next_position
select position from {} where ledger_id = %s and position >= %s order by position limit 1;

-- name: erasures
-- The newest erasure of each of these entries.
select resource_id, max(position) from {}
where ledger_id = %s and resource_type = %s and resource_id = any(%s::text[]) and action = %s
group by resource_id;

-- name: false_marks
-- What stands in the tables of legal holds and of skips, and no entries say.
with kept (what, resource_type, resource_id, began, ended, begins, ends) as (
    select 'ledger.holds', resource_type, resource_id, placed, released, 'ledger.hold_placed', 'ledger.hold_released'
    from ledger.holds where ledger_id = %s
    union all
    select 'ledger.skips', 'ledger.skip', name || ':' || position, skipped, retried,
        'ledger.entry_skipped', 'ledger.entry_retried'
    from ledger.skips where ledger_id = %s
)
select kept.what, kept.began from kept
where not (
    exists (
        select from {} as entry
        where entry.ledger_id = %s and entry.position = kept.began and entry.action = kept.begins
            and entry.resource_type = kept.resource_type and entry.resource_id = kept.resource_id
    )
    and (kept.ended is null or exists (
        select from {} as entry
        where entry.ledger_id = %s and entry.position = kept.ended and entry.action = kept.ends
            and entry.resource_type = kept.resource_type and entry.resource_id = kept.resource_id
    ))
)
order by kept.began limit %s;

-- name: lost_marks
-- What these entries say of legal holds and of skips, and the tables do not.
select said.position, case when said.action ^@ 'ledger.hold_' then 'ledger.holds' else 'ledger.skips' end
from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) as said (position, action, resource_type, resource_id)
where not exists (
    select from ledger.holds as hold
    where hold.ledger_id = %s and hold.resource_type = said.resource_type and hold.resource_id = said.resource_id
        and said.position = case said.action
            when 'ledger.hold_placed' then hold.placed
            when 'ledger.hold_released' then hold.released
        end
) and not exists (
    select from ledger.skips as skip
    where skip.ledger_id = %s and said.resource_type = 'ledger.skip'
        and said.resource_id = skip.name || ':' || skip.position
        and said.position = case said.action
            when 'ledger.entry_skipped' then skip.skipped
            when 'ledger.entry_retried' then skip.retried
        end
);

-- name: misplaced
(select position from {} where ledger_id = %s and position < 1 order by position limit %s)
union all
(select position from {} where ledger_id = %s and position is null limit 1);

-- name: orphans
-- Goes from one ledger_id to the next by the index, however many entries each has.
with recursive present (ledger_id) as (
    select min(ledger_id) from ledger.audit_logs
    union all
    select (select min(entry.ledger_id) from ledger.audit_logs as entry where entry.ledger_id > present.ledger_id)
    from present where present.ledger_id is not null
)
select
    present.ledger_id,
    (select min(entry.position) from ledger.audit_logs as entry where entry.ledger_id = present.ledger_id)
from present
where present.ledger_id is not null
    and not exists (select from ledger.ledgers as ledger where ledger.ledger_id = present.ledger_id)
order by present.ledger_id limit 1000;

-- name: record
insert into ledger.verifications (ledger_id, first, last, head, findings) values (%s, %s, %s, %s, %s)
on conflict do nothing;

-- name: unprotected
-- What the schema sets up against changes, compared with what there is: one row for each difference. The definitions
-- are as Postgres prints them with the search_path that `begin` sets.
with tables (name) as (
    values
        ('ledger.audit_logs'), ('ledger.tails'), ('ledger.ledgers'), ('ledger.holds'), ('ledger.skips'),
        ('ledger.tiles'), ('ledger.checkpoints')
),
triggers (tablename, name, definition) as (
    values
        ('ledger.audit_logs', 'move_tail',
            'CREATE TRIGGER move_tail AFTER INSERT ON ledger.audit_logs'
            ' REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ledger.move_tail()'),
        ('ledger.audit_logs', 'granted_ledger',
            'CREATE TRIGGER granted_ledger AFTER INSERT ON ledger.audit_logs'
            ' REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_writer()'),
        ('ledger.audit_logs', 'append_only',
            'CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON ledger.audit_logs'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change(''ledger.entry_erased'')'),
        ('ledger.audit_logs', 'only_bodies',
            'CREATE TRIGGER only_bodies BEFORE UPDATE ON ledger.audit_logs'
            ' FOR EACH ROW WHEN ((current_setting(''ledger.own''::text, true) <> ''''::text))'
            ' EXECUTE FUNCTION ledger.refuse_more_than_bodies()'),
        ('ledger.audit_logs', 'own_actions',
            'CREATE TRIGGER own_actions AFTER INSERT ON ledger.audit_logs'
            ' FOR EACH ROW WHEN ((new.action ^@ ''ledger.''::text)) EXECUTE FUNCTION ledger.refuse_own_action()'),
        ('ledger.holds', 'append_only',
            'CREATE TRIGGER append_only'
            ' BEFORE DELETE OR UPDATE OF ledger_id, resource_type, resource_id, placed OR TRUNCATE ON ledger.holds'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()'),
        ('ledger.holds', 'placed_by_entries',
            'CREATE TRIGGER placed_by_entries BEFORE INSERT ON ledger.holds'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change(''ledger.hold_placed'')'),
        ('ledger.holds', 'released_by_entries',
            'CREATE TRIGGER released_by_entries BEFORE UPDATE ON ledger.holds'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change(''ledger.hold_released'')'),
        ('ledger.skips', 'append_only',
            'CREATE TRIGGER append_only'
            ' BEFORE DELETE OR UPDATE OF ledger_id, name, "position", skipped OR TRUNCATE ON ledger.skips'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()'),
        ('ledger.skips', 'skipped_by_entries',
            'CREATE TRIGGER skipped_by_entries BEFORE INSERT ON ledger.skips'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change(''ledger.entry_skipped'')'),
        ('ledger.skips', 'retried_by_entries',
            'CREATE TRIGGER retried_by_entries BEFORE UPDATE ON ledger.skips'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change(''ledger.entry_retried'')'),
        ('ledger.ledgers', 'append_only',
            'CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON ledger.ledgers'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()'),
        ('ledger.tails', 'append_only',
            'CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON ledger.tails'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()'),
        ('ledger.tails', 'moved_by_entries',
            'CREATE TRIGGER moved_by_entries BEFORE UPDATE OF ledger_id, "position", hash, recorded_at ON ledger.tails'
            ' FOR EACH ROW WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION ledger.refuse_change()'),
        ('ledger.tiles', 'append_only',
            'CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OF ledger_id, level, index OR TRUNCATE ON ledger.tiles'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_tree_change()'),
        ('ledger.tiles', 'grow_only',
            'CREATE TRIGGER grow_only BEFORE UPDATE ON ledger.tiles'
            ' FOR EACH ROW EXECUTE FUNCTION ledger.grow_tile()'),
        ('ledger.checkpoints', 'append_only',
            'CREATE TRIGGER append_only'
            ' BEFORE DELETE OR UPDATE OF ledger_id, size, root, signed_at OR TRUNCATE ON ledger.checkpoints'
            ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_tree_change()'),
        ('ledger.checkpoints', 'add_only',
            'CREATE TRIGGER add_only BEFORE UPDATE ON ledger.checkpoints'
            ' FOR EACH ROW EXECUTE FUNCTION ledger.add_signatures()')
),
constraints (tablename, name, definition) as (
    values
        ('ledger.audit_logs', 'one_entry_per_position', 'PRIMARY KEY (ledger_id, "position")'),
        ('ledger.audit_logs', 'one_entry_per_id', 'UNIQUE (ledger_id, id)'),
        ('ledger.audit_logs', 'entry_format',
            'CHECK ((("position" >= 1) AND (octet_length(hash) = 32) AND (octet_length(prev_hash) = 32)'
            ' AND (octet_length(body_hash) = 32) AND ((resource_type IS NULL) = (resource_id IS NULL))'
            ' AND (COALESCE(octet_length(salt), (16 + num_nonnulls(before, after, metadata))) = 16)))'),
        ('ledger.holds', 'holds_pkey', 'PRIMARY KEY (ledger_id, placed)'),
        ('ledger.holds', 'released_after_placed', 'CHECK ((released > placed))'),
        ('ledger.skips', 'skips_pkey', 'PRIMARY KEY (ledger_id, skipped)'),
        ('ledger.skips', 'skip_order', 'CHECK (((skipped > "position") AND (retried > skipped)))'),
        ('ledger.tiles', 'tiles_pkey', 'PRIMARY KEY (ledger_id, level, index)'),
        ('ledger.tiles', 'tile_format',
            'CHECK ((((level >= 0) AND (level <= 7)) AND (index >= 0) AND ((octet_length(hashes) >= 32)'
            ' AND (octet_length(hashes) <= 8192)) AND ((octet_length(hashes) %% 32) = 0)))'),
        ('ledger.checkpoints', 'checkpoints_pkey', 'PRIMARY KEY (ledger_id, size)'),
        ('ledger.checkpoints', 'checkpoint_format',
            'CHECK (((size >= 0) AND (octet_length(root) = 32)'
            ' AND (split_part(note, chr(10), 2) = (size)::text)'
            ' AND (split_part(note, chr(10), 3) = encode(root, ''base64''::text))))')
),
-- The same constraints in other words: a BETWEEN that comes first loses its parentheses when a dump is restored.
restored (tablename, name, definition) as (
    values
        ('ledger.tiles', 'tile_format',
            'CHECK (((level >= 0) AND (level <= 7) AND (index >= 0) AND ((octet_length(hashes) >= 32)'
            ' AND (octet_length(hashes) <= 8192)) AND ((octet_length(hashes) %% 32) = 0)))')
),
-- From the package's migrations; the settings of each are lines of one text.
functions (name, source, as_owner, settings) as (
    select name, source, as_owner, string_to_array(nullif(settings, ''), e'\n')
    from unnest(%s::text[], %s::text[], %s::boolean[], %s::text[]) as source (name, source, as_owner, settings)
),
differences (detail) as (
    select format('trigger %%s on %%s is %%s', wanted.name, wanted.tablename, case
        when found.oid is null then 'missing'
        when pg_get_triggerdef(found.oid) <> wanted.definition then 'not the one of the schema'
        when found.tgenabled = 'D' then 'disabled'
        else 'not enabled ALWAYS'
    end)
    from triggers as wanted
    left join pg_trigger as found
        on found.tgrelid = to_regclass(wanted.tablename) and found.tgname = wanted.name and not found.tgisinternal
    where found.oid is null or found.tgenabled <> 'A' or pg_get_triggerdef(found.oid) <> wanted.definition
    union all
    -- A BEFORE ROW trigger can change or swallow what is written.
    select format('trigger %%s on %%s is not of the schema and can change what is written', found.tgname, tables.name)
    from tables
    join pg_trigger as found on found.tgrelid = to_regclass(tables.name)
    where not found.tgisinternal and found.tgenabled <> 'D' and found.tgtype & 3 = 3
        and (tables.name, found.tgname) not in (select tablename, name from triggers)
    union all
    select format('constraint %%s on %%s is %%s', wanted.name, wanted.tablename, case
        when found.oid is null then 'missing'
        when not found.convalidated then 'not valid'
        else 'not the one of the schema'
    end)
    from constraints as wanted
    left join pg_constraint as found on found.conrelid = to_regclass(wanted.tablename) and found.conname = wanted.name
    where found.oid is null or not found.convalidated
        or (wanted.tablename, wanted.name, pg_get_constraintdef(found.oid)) not in (
            select tablename, name, definition from constraints
            union all
            select tablename, name, definition from restored
        )
    union all
    select format('function %%s is %%s', wanted.name, case
        when found.oid is null then 'missing'
        when found.prosrc <> wanted.source then 'not the one of the schema: its source differs'
        when found.prosecdef <> wanted.as_owner then
            case when wanted.as_owner then 'not SECURITY DEFINER' else 'SECURITY DEFINER' end
        else 'not the one of the schema: its language or settings differ'
    end)
    from functions as wanted
    left join pg_proc as found
        on found.pronamespace = to_regnamespace('ledger') and 'ledger.' || found.proname = wanted.name
    where found.oid is null or found.prosrc <> wanted.source or found.prosecdef <> wanted.as_owner
        or found.prolang <> (select oid from pg_language where lanname = 'plpgsql')
        or found.proconfig is distinct from wanted.settings
    union all
    select format('table %%s is %%s', tables.name, case
        when found.oid is null then 'missing'
        when found.relkind not in ('r', 'p') then 'not a table'
        when found.relpersistence = 'u' then 'UNLOGGED: a crash empties it'
        else 'temporary'
    end)
    from tables
    left join pg_class as found on found.oid = to_regclass(tables.name)
    where found.oid is null or found.relkind not in ('r', 'p') or found.relpersistence <> 'p'
    union all
    select format('rule %%s on %%s changes what statements do', rewrite.rulename, tables.name)
    from tables
    join pg_rewrite as rewrite on rewrite.ev_class = to_regclass(tables.name)
    where rewrite.rulename <> '_RETURN'
    union all
    select format('table %%s inherits from %%s: its rows pass for that table''s', child.inhrelid::regclass, tables.name)
    from tables
    join pg_inherits as child on child.inhparent = to_regclass(tables.name)
    join pg_class as parent on parent.oid = child.inhparent and parent.relkind = 'r'
)
select detail from differences order by detail;
