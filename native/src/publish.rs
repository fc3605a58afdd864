//! Stored entries as the stream holds them (format.md, "Stream entry"), until one does not hold.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::row::{Link, Row, fields, not_a_row, some_of};
use crate::text::push_hex;

/// Takes the rows of a COPY OUT, each judged by the one before it.
#[pyclass]
pub struct Publish {
    ledger: String,
    last: Link,
}

/// An entry of the stream: position, envelope, body (empty where it was erased) and hash in hex.
type Made = (i64, Vec<u8>, Vec<u8>, String);

#[pymethods]
impl Publish {
    /// ledger: its name.
    #[new]
    fn new(ledger: String) -> Self {
        Self { ledger, last: Link { position: 0, stored: None, computed: None, recorded: None } }
    }

    fn go_on(&mut self, position: i64, stored: Option<Vec<u8>>, computed: Option<Vec<u8>>, recorded: Option<i64>) {
        self.last = Link { position, stored, computed, recorded };
    }

    /// What the next entry is judged by: position, hash as stored, hash of its envelope, time.
    fn last<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.last.to_python(py)
    }

    /// Appends to a list what the stream is to hold of the messages of a COPY OUT from the index `start` on, as tuples
    /// of position, envelope, body and hash in hex; while they hold, are no own entries of the ledger, and do not come
    /// to `most_bytes`.
    ///
    /// Returns the bytes of envelopes and bodies, and the index of the first message that it did not take. Raises
    /// ValueError for a message that is no row.
    fn take(
        &mut self,
        py: Python<'_>,
        messages: &Bound<'_, PyList>,
        start: usize,
        most_bytes: usize,
        entries: &Bound<'_, PyList>,
    ) -> PyResult<(usize, usize)> {
        let mut size = 0;
        let mut index = start;
        while index < messages.len() && size < most_bytes {
            let some = some_of(messages, index)?;
            let rows: Vec<&[u8]> = some.iter().map(|message| message.as_bytes()).collect();
            let (made, seen) = py.detach(|| self.take_some(&rows, most_bytes - size))?;
            for (position, envelope, body, hash) in &made {
                size += envelope.len() + body.len();
                entries.append((*position, PyBytes::new(py, envelope), PyBytes::new(py, body), hash))?;
            }
            index += seen;
            if seen < rows.len() {
                break;
            }
        }
        Ok((size, index))
    }
}

impl Publish {
    fn take_some(&mut self, rows: &[&[u8]], most_bytes: usize) -> PyResult<(Vec<Made>, usize)> {
        let mut made = Vec::with_capacity(rows.len());
        let mut size = 0;
        for (seen, message) in rows.iter().enumerate() {
            let Some(row) = fields(message).ok_or_else(not_a_row)? else { continue };
            let Some(entry) = Row::of(&row).filter(|_| size < most_bytes).and_then(|row| self.entry(&row)) else {
                return Ok((made, seen));
            };
            size += entry.1.len() + entry.2.len();
            made.push(entry);
        }
        Ok((made, rows.len()))
    }

    fn entry(&mut self, row: &Row<'_>) -> Option<Made> {
        let continues = self.last.position.checked_add(1) == Some(row.position)
            && (self.last.stored.is_none()
                || self.last.stored.as_deref() == Some(row.prev_hash)
                || self.last.computed.as_deref() == Some(row.prev_hash))
            && self.last.recorded.is_none_or(|recorded| recorded <= row.recorded);
        if !continues || row.is_own() {
            return None;
        }
        let mut envelope = Vec::with_capacity(512);
        if !row.push_envelope(&mut envelope, &self.ledger) {
            return None;
        }
        let hash = blake3::hash(&envelope);
        if hash.as_bytes() != row.hash {
            return None;
        }
        let mut body = Vec::new();
        match row.salt {
            None if row.before.is_none() && row.after.is_none() && row.metadata.is_none() => {}
            None => return None,
            Some(salt) => {
                body.reserve(512);
                row.push_body(&mut body, salt);
                if blake3::hash(&body).as_bytes() != row.body_hash {
                    return None;
                }
            }
        }
        let mut digits = Vec::with_capacity(64);
        push_hex(&mut digits, hash.as_bytes());
        self.last = Link::after(row.position, hash.as_bytes(), row.recorded);
        Some((row.position, envelope, body, String::from_utf8(digits).ok()?))
    }
}
