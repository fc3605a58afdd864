-- The key of the digests of captured columns, as HMAC uses it (RFC 2104). Nobody but ledger_owner reads it.
create table ledger.digest_keys (
    one boolean not null default true,
    inner_pad bytea not null,
    outer_pad bytea not null,
    constraint one_digest_key primary key (one),
    constraint no_other_key check (one)
);
