-- Which tables are captured, and how: ledger.capture_rows reads it at each statement (docs/capture.md, "Tables").
create table ledger.captures (
    capture_id int generated always as identity,
    ledger_id int not null,
    relation regclass not null,
    key text[] not null,
    action text not null,
    resource_type text not null,
    exclude text[] not null,
    redact text[] not null,
    digest text[] not null,
    allow text[] not null,
    condition text,
    full_rows boolean not null,
    no_actor text not null,
    deny text not null,
    hints text not null,
    cards boolean not null,
    columns jsonb not null,
    backfilled text[],
    backfill_ended boolean not null default false,
    constraint one_capture primary key (capture_id),
    constraint one_capture_per_relation unique (relation)
);
comment on column ledger.captures.action is 'The action of its entries; {op} is what was done.';
comment on column ledger.captures.allow is 'Words of keys that the built-in patterns do not redact.';
comment on column ledger.captures.deny is 'A regular expression found in the words of each key to be redacted.';
comment on column ledger.captures.hints is 'A regular expression found in each JSON text, reduced to letters and digits, that has such a key.';
comment on column ledger.captures.cards is 'Whether texts that are card numbers are redacted.';
comment on column ledger.captures.columns is 'The columns at the time of installation, by number: a renamed one is treated as before.';
comment on column ledger.captures.backfilled is 'The key of the last row that backfill has recorded.';
