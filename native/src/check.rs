//! Checks stored entries, each against the one before it, until one is not sound: what is wrong with that is for others.

use std::collections::HashSet;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use sha2::{Digest, Sha256};

use crate::entry::Hash;
use crate::row::{Link, Row, fields, not_a_row, some_of};

/// Takes the rows of a COPY OUT. Of a sound one nothing is left but the hash of its leaf.
#[pyclass]
pub struct Check {
    ledger: String,
    known: HashSet<i64>,
    last: Link,
    leaves: Option<Vec<u8>>,
    envelope: Vec<u8>,
    body: Vec<u8>,
}

#[pymethods]
impl Check {
    /// ledger: its name. known: positions at which no entry is taken for sound. leaves: whether the tree's leaf hashes
    /// are wanted.
    #[new]
    fn new(ledger: String, known: HashSet<i64>, leaves: bool) -> Self {
        Self {
            ledger,
            known,
            last: Link { position: 0, stored: None, computed: None, recorded: None },
            leaves: leaves.then(Vec::new),
            envelope: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Takes the messages of a COPY OUT from the index `start` on, while they are sound: each a whole entry that
    /// continues the sound one before it, keeps the rules, and is no own entry of the ledger. A header and a trailer
    /// are passed over.
    ///
    /// Returns how many entries it took, and the index of the first message that it did not take. Raises ValueError
    /// for a message that is no row.
    fn take(&mut self, py: Python<'_>, messages: &Bound<'_, PyList>, start: usize) -> PyResult<(usize, usize)> {
        let mut entries = 0;
        let mut index = start;
        while index < messages.len() {
            let some = some_of(messages, index)?;
            let rows: Vec<&[u8]> = some.iter().map(|message| message.as_bytes()).collect();
            let (taken, seen) = py.detach(|| self.take_some(&rows))?;
            entries += taken;
            index += seen;
            if seen < rows.len() {
                break;
            }
        }
        Ok((entries, index))
    }

    /// What the next entry is judged by: position, hash as stored, hash of its envelope, time.
    fn last<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.last.to_python(py)
    }

    fn go_on(&mut self, position: i64, stored: Option<Vec<u8>>, computed: Option<Vec<u8>>, recorded: Option<i64>) {
        self.last = Link { position, stored, computed, recorded };
    }

    /// The leaf hashes (RFC 6962, section 2.1; 32 bytes each) of the entries taken since this was last asked for.
    fn leaves<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let leaves = PyBytes::new(py, self.leaves.as_deref().unwrap_or_default());
        if let Some(leaves) = &mut self.leaves {
            leaves.clear();
        }
        leaves
    }
}

impl Check {
    /// Returns how many entries it took, and how many messages.
    fn take_some(&mut self, rows: &[&[u8]]) -> PyResult<(usize, usize)> {
        let mut entries = 0;
        for (seen, message) in rows.iter().enumerate() {
            if let Some(row) = fields(message).ok_or_else(not_a_row)? {
                if !Row::of(&row).is_some_and(|row| self.is_sound(&row)) {
                    return Ok((entries, seen));
                }
                entries += 1;
            }
        }
        Ok((entries, rows.len()))
    }

    fn is_sound(&mut self, row: &Row<'_>) -> bool {
        let (Some(salt), Some(last_recorded)) = (row.salt, self.last.recorded) else { return false };
        if salt.len() != 16
            || self.last.position.checked_add(1) != Some(row.position)
            || self.last.stored.as_deref() != Some(row.prev_hash)
            || row.recorded < last_recorded
            || self.known.contains(&row.position)
        {
            return false;
        }
        self.envelope.clear();
        if !row.push_envelope(&mut self.envelope, &self.ledger) {
            return false;
        }
        let hash: Hash = blake3::hash(&self.envelope).into();
        if hash != row.hash {
            return false;
        }
        self.body.clear();
        row.push_body(&mut self.body, salt);
        if blake3::hash(&self.body).as_bytes() != row.body_hash || !row.surely_keeps_rules(&self.body) {
            return false;
        }
        if let Some(leaves) = &mut self.leaves {
            leaves.extend_from_slice(&Sha256::new().chain_update([0]).chain_update(&self.envelope).finalize());
        }
        self.last = Link::after(row.position, &hash, row.recorded);
        true
    }
}
