//! A row of `ledger.audit_logs` as COPY's binary format has it (PostgreSQL documentation, COPY, "Binary Format"),
//! without ledger_id. Nothing is believed: each length is compared with what is there.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString, PyTuple};

use crate::entry::{
    ACTION, ACTOR, ACTOR_TYPE, Envelope, Hash, MAX_BODY, MAX_DEPTH, OWN_ACTIONS, RESOURCE_ID, RESOURCE_TYPE, is_member,
    push_body,
};

pub const COLUMNS: usize = 16;
/// What stands before the first row: a signature, flags, and the length of a header's extension, which is 0.
pub const HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const TRAILER: [u8; 2] = [0xff, 0xff];

/// Columns whose values have all so many bytes: the position, the id, and both times.
const WIDTHS: [(usize, usize); 4] = [(0, 8), (1, 16), (2, 8), (3, 8)];

type Field<'a> = Option<&'a [u8]>;

/// One message of a COPY OUT: a row, after the header if it is the first, or the trailer (None).
pub fn fields(message: &[u8]) -> Option<Option<[Field<'_>; COLUMNS]>> {
    let mut rest = message.strip_prefix(&HEADER).unwrap_or(message);
    if rest == TRAILER || rest.is_empty() {
        return Some(None);
    }
    if take::<2>(&mut rest)? != (COLUMNS as u16).to_be_bytes() {
        return None;
    }
    let mut row = [None; COLUMNS];
    for field in &mut row {
        let length = i32::from_be_bytes(take(&mut rest)?);
        if length != -1 {
            let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            *field = Some(value);
            rest = after;
        }
    }
    let fit = WIDTHS.iter().all(|(place, width)| row[*place].is_none_or(|value| value.len() == *width));
    (rest.is_empty() && fit).then_some(Some(row))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

/// Writes a field: its length (-1 for NULL) and its bytes.
pub fn push_field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

/// Messages that are looked at without the interpreter's lock at a time.
const AT_ONCE: usize = 64;

/// The next messages of a list from an index on, which must all be bytes.
pub fn some_of<'py>(messages: &Bound<'py, PyList>, start: usize) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let end = messages.len().min(start.saturating_add(AT_ONCE));
    (start..end).map(|index| Ok(messages.get_item(index)?.cast_into::<PyBytes>()?)).collect()
}

pub fn not_a_row() -> PyErr {
    PyValueError::new_err("a message of COPY is not a row of ledger.audit_logs")
}

/// An eight-byte integer, as positions and times are.
pub fn integer(field: Field<'_>) -> Option<i64> {
    Some(i64::from_be_bytes(field?.try_into().ok()?))
}

fn text(field: Field<'_>) -> Option<Option<&str>> {
    match field {
        None => Some(None),
        Some(bytes) => std::str::from_utf8(bytes).ok().map(Some),
    }
}

/// A row whose columns are what an envelope needs.
pub struct Row<'a> {
    pub position: i64,
    pub recorded: i64,
    pub before: Field<'a>,
    pub after: Field<'a>,
    pub metadata: Field<'a>,
    pub salt: Field<'a>,
    pub body_hash: &'a [u8],
    pub prev_hash: &'a [u8],
    pub hash: &'a [u8],
    id: &'a [u8; 16],
    occurred: i64,
    actor: &'a str,
    actor_type: &'a str,
    action: &'a str,
    resource_type: Option<&'a str>,
    resource_id: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// None if a NULL, or a text that is none, leaves it without an envelope.
    pub fn of(row: &[Field<'a>; COLUMNS]) -> Option<Self> {
        Some(Self {
            position: integer(row[0])?,
            id: row[1]?.try_into().ok()?,
            recorded: integer(row[2])?,
            occurred: integer(row[3])?,
            actor: text(row[4])??,
            actor_type: text(row[5])??,
            action: text(row[6])??,
            resource_type: text(row[7])?,
            resource_id: text(row[8])?,
            before: row[9],
            after: row[10],
            metadata: row[11],
            salt: row[12],
            body_hash: row[13]?,
            prev_hash: row[14]?,
            hash: row[15]?,
        })
    }

    /// Writes its envelope. False if a time outside the years 0001-9999 leaves it without.
    pub fn push_envelope(&self, out: &mut Vec<u8>, ledger: &str) -> bool {
        let envelope = Envelope {
            action: self.action,
            actor: self.actor,
            actor_type: self.actor_type,
            body: self.body_hash,
            id: self.id,
            ledger,
            occurred: self.occurred,
            position: self.position,
            prev: self.prev_hash,
            recorded: self.recorded,
            resource_id: self.resource_id,
            resource_type: self.resource_type,
        };
        envelope.push(out)
    }

    /// Writes its body, which must stand.
    pub fn push_body(&self, out: &mut Vec<u8>, salt: &[u8]) {
        push_body(out, self.before, self.after, self.metadata, salt);
    }

    pub fn is_own(&self) -> bool {
        self.action.starts_with(OWN_ACTIONS)
    }

    /// A quick check: true if an entry with a sound envelope and this body surely keeps all rules and is no own entry.
    pub fn surely_keeps_rules(&self, body: &[u8]) -> bool {
        let resource = match (self.resource_type, self.resource_id) {
            (None, None) => true,
            (Some(kind), Some(id)) => is_member(kind, RESOURCE_TYPE) && is_member(id, RESOURCE_ID),
            _ => false,
        };
        resource
            && is_member(self.actor, ACTOR)
            && is_member(self.actor_type, ACTOR_TYPE)
            && is_member(self.action, ACTION)
            && !self.is_own()
            && body.len() <= MAX_BODY
            && is_simple(body)
    }
}

/// Whether a body has no line break, no `\u`, and no more brackets than a value may have levels.
fn is_simple(body: &[u8]) -> bool {
    // Loops without a way out, so that many bytes are looked at together.
    let breaks = body.iter().fold(false, |any, byte| any | (*byte == b'\n') | (*byte == b'\r'));
    let backslashes = body.iter().fold(false, |any, byte| any | (*byte == b'\\'));
    let brackets: usize = body.iter().map(|byte| usize::from(*byte == b'{') + usize::from(*byte == b'[')).sum();
    !breaks && brackets <= MAX_DEPTH && !(backslashes && body.windows(2).any(|two| two == b"\\u"))
}

/// What the next entry is judged by. Hashes: of a forged entry they may have any length.
pub struct Link {
    pub position: i64,
    pub stored: Option<Vec<u8>>,
    pub computed: Option<Vec<u8>>,
    pub recorded: Option<i64>,
}

impl Link {
    pub fn after(position: i64, hash: &Hash, recorded: i64) -> Self {
        Self { position, stored: Some(hash.to_vec()), computed: Some(hash.to_vec()), recorded: Some(recorded) }
    }

    pub fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let bytes = |hash: &Option<Vec<u8>>| hash.as_ref().map(|hash| PyBytes::new(py, hash));
        (self.position, bytes(&self.stored), bytes(&self.computed), self.recorded).into_pyobject(py)
    }
}

/// The columns of a row as values of Python; None for the trailer.
///
/// int for the position and both times (microseconds since 2000-01-01 UTC), str for texts, bytes for the id (16), JSON
/// texts, the salt and the hashes; None for NULL. Raises ValueError for what is no row, UnicodeDecodeError for a text
/// that is no UTF-8.
#[pyfunction]
pub fn columns<'py>(py: Python<'py>, message: &[u8]) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(row) = fields(message).ok_or_else(not_a_row)? else { return Ok(None) };
    let mut values = Vec::with_capacity(COLUMNS);
    for (place, field) in row.into_iter().enumerate() {
        values.push(match (place, field) {
            (_, None) => py.None().into_bound(py),
            (0 | 2 | 3, field) => PyInt::new(py, integer(field).ok_or_else(not_a_row)?).into_any(),
            (4..=8, Some(bytes)) => PyString::from_bytes(py, bytes)?.into_any(),
            (_, Some(bytes)) => PyBytes::new(py, bytes).into_any(),
        });
    }
    PyTuple::new(py, values).map(Some)
}
