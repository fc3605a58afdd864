//! Entry ids: of the time and randomness, or of an idempotency key.

const KEY_CONTEXT: &str = "auditledger 2026-11 idempotency key to entry id";

/// RFC 9562, section 5.7, with the sub-millisecond fraction of section 6.2, method 3. now: nanoseconds since 1970.
pub fn uuid7(now: i64, random: &[u8; 10]) -> [u8; 16] {
    let (milliseconds, nanoseconds) = (now / 1_000_000, now % 1_000_000);
    let fraction = ((nanoseconds << 12) / 1_000_000) as u16;
    let mut id = [0; 16];
    id[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    id[6..8].copy_from_slice(&(0x7000 | fraction).to_be_bytes());
    id[8..].copy_from_slice(&random[..8]);
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// The entry id that stands for an idempotency key: a UUIDv8 (RFC 9562, section 5.8) of its BLAKE3 hash.
pub fn id_for(key: &str) -> [u8; 16] {
    let mut id = [0; 16];
    blake3::Hasher::new_derive_key(KEY_CONTEXT).update(key.as_bytes()).finalize_xof().fill(&mut id);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}
