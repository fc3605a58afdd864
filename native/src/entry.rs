//! A stored entry: the bytes that its hashes are of, from its columns (format.md, "Envelope" and "Body").

use crate::text::{push_hex, push_json, push_json_or_null, push_number, push_uuid};
use crate::times::push_timestamp;

/// Bytes of a body: before, after, metadata, punctuation and salt.
pub const MAX_BODY: usize = 256 * 1024;
/// Levels of objects and arrays in one value of a body.
pub const MAX_DEPTH: usize = 64;
/// Characters that a string of the envelope may have; at least one.
pub const ACTOR: usize = 255;
pub const ACTOR_TYPE: usize = 64;
pub const ACTION: usize = 128;
pub const RESOURCE_TYPE: usize = 64;
pub const RESOURCE_ID: usize = 255;
/// Actions that begin so are the ledger's own.
pub const OWN_ACTIONS: &str = "ledger.";

pub type Hash = [u8; 32];

/// Everything that an envelope says.
pub struct Envelope<'a> {
    pub action: &'a str,
    pub actor: &'a str,
    pub actor_type: &'a str,
    pub body: &'a [u8],
    pub id: &'a [u8; 16],
    pub ledger: &'a str,
    pub occurred: i64,
    pub position: i64,
    pub prev: &'a [u8],
    pub recorded: i64,
    pub resource_id: Option<&'a str>,
    pub resource_type: Option<&'a str>,
}

impl Envelope<'_> {
    /// Its bytes. False if a time outside the years 0001-9999 leaves it without.
    pub fn push(&self, out: &mut Vec<u8>) -> bool {
        push_who(out, self.action, self.actor, self.actor_type);
        push_hex(out, self.body);
        out.extend_from_slice(b"\",\"id\":\"");
        push_uuid(out, self.id);
        out.extend_from_slice(b"\",\"ledger\":\"");
        out.extend_from_slice(self.ledger.as_bytes());
        out.extend_from_slice(b"\",\"occurred_at\":\"");
        if !push_timestamp(out, self.occurred) {
            return false;
        }
        out.extend_from_slice(b"\",\"position\":");
        push_number(out, self.position);
        out.extend_from_slice(b",\"prev\":\"");
        push_hex(out, self.prev);
        out.extend_from_slice(b"\",\"recorded_at\":\"");
        if !push_timestamp(out, self.recorded) {
            return false;
        }
        out.extend_from_slice(b"\",");
        push_resource(out, self.resource_type, self.resource_id);
        true
    }
}

/// An envelope's beginning, up to the quote before the body's hash.
pub fn push_who(out: &mut Vec<u8>, action: &str, actor: &str, actor_type: &str) {
    out.extend_from_slice(b"{\"action\":");
    push_json(out, action);
    out.extend_from_slice(b",\"actor\":");
    push_json(out, actor);
    out.extend_from_slice(b",\"actor_type\":");
    push_json(out, actor_type);
    out.extend_from_slice(b",\"body\":\"");
}

/// An envelope's end, from the resource on.
pub fn push_resource(out: &mut Vec<u8>, resource_type: Option<&str>, resource_id: Option<&str>) {
    out.extend_from_slice(b"\"resource_id\":");
    push_json_or_null(out, resource_id);
    out.extend_from_slice(b",\"resource_type\":");
    push_json_or_null(out, resource_type);
    out.extend_from_slice(b",\"v\":1}");
}

/// A body's bytes; None is null.
pub fn push_body(out: &mut Vec<u8>, before: Option<&[u8]>, after: Option<&[u8]>, metadata: Option<&[u8]>, salt: &[u8]) {
    for (name, text) in [("{\"after\":", after), (",\"before\":", before), (",\"metadata\":", metadata)] {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(text.unwrap_or(b"null"));
    }
    out.extend_from_slice(b",\"salt\":\"");
    push_hex(out, salt);
    out.extend_from_slice(b"\"}");
}

/// Whether a string of the envelope keeps its rule: 1 to `most` characters, none of them U+0000.
pub fn is_member(text: &str, most: usize) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && (bytes.len() <= most || (bytes.len() <= 4 * most && text.chars().count() <= most))
        && !bytes.contains(&0)
}
