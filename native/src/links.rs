//! Drafts in their places behind a tail, and the rows that Postgres takes of them.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple, PyType};

use crate::draft::Draft;
use crate::encoder::Encoder;
use crate::entry::Hash;
use crate::row::{HEADER, TRAILER, push_field};
use crate::text::{push_hex, push_number};
use crate::times::push_timestamp;

const FIELDS: i16 = 17;
/// Bytes that are handed on at a time: Postgres works on them while the next are made.
const CHUNK: usize = 32 * 1024;

/// The drafts as the entries after a tail. Each is hashed when it is first asked for, by `copy_data` piece by piece.
#[pyclass(frozen, sequence)]
pub struct Links {
    drafts: Vec<Py<Draft>>,
    position: i64,
    prev: Hash,
    recorded: i64,
    recorded_at: Py<PyAny>,
    receipt: Py<PyType>,
    hashes: Mutex<Vec<Hash>>,
    made: OnceLock<Vec<Py<ChainedDraft>>>,
}

/// A draft in its place.
#[pyclass(frozen)]
pub struct ChainedDraft {
    #[pyo3(get)]
    draft: Py<Draft>,
    #[pyo3(get)]
    position: i64,
    prev: Hash,
    hash: Hash,
    #[pyo3(get)]
    recorded_at: Py<PyAny>,
    receipt: Py<PyType>,
}

#[pymethods]
impl ChainedDraft {
    #[classattr]
    #[allow(non_upper_case_globals)]
    const is_new: bool = true;

    #[getter]
    fn prev<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.prev)
    }

    #[getter]
    fn hash<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.hash)
    }

    /// What its caller gets once it is durable.
    fn receipt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let id = self.draft.get().id(py)?;
        self.receipt.bind(py).call1((id, self.position, PyBytes::new(py, &self.hash), &self.recorded_at))
    }

    /// The parameters of an INSERT of its row: ledger_id, then the columns of the table.
    fn row_params<'py>(&self, py: Python<'py>, ledger_id: i32) -> PyResult<Bound<'py, PyTuple>> {
        let draft = self.draft.get();
        let mut values: Vec<Bound<'py, PyAny>> = Vec::with_capacity(17);
        values.push(ledger_id.into_pyobject(py)?.into_any());
        values.push(self.position.into_pyobject(py)?.into_any());
        values.push(draft.id(py)?.into_bound(py));
        values.push(self.recorded_at.bind(py).clone());
        values.push(draft.occurred_at(py)?);
        for text in draft.strings(py) {
            values.push(text.cloned().unwrap_or_else(|| py.None().into_bound(py)));
        }
        for place in 0..3 {
            values.push(match draft.text(place) {
                Some(text) => PyString::from_bytes(py, text)?.into_any(),
                None => py.None().into_bound(py),
            });
        }
        for bytes in [&draft.salt, &draft.body_hash()[..], &self.prev, &self.hash] {
            values.push(PyBytes::new(py, bytes).into_any());
        }
        PyTuple::new(py, values)
    }
}

#[pymethods]
impl Links {
    /// position, prev: of the tail; prev has 32 bytes. recorded_at: of all of them, and the same in microseconds since
    /// 2000-01-01 UTC as `recorded`. drafts: made by this encoder, or by Python.
    #[new]
    fn new(
        py: Python<'_>,
        encoder: &Encoder,
        drafts: Vec<Bound<'_, PyAny>>,
        position: i64,
        prev: Hash,
        recorded: i64,
        recorded_at: Py<PyAny>,
    ) -> PyResult<Self> {
        let mut own = Vec::with_capacity(drafts.len());
        for draft in drafts {
            own.push(match draft.cast::<Draft>() {
                Ok(ours) => ours.clone().unbind(),
                Err(_) => Py::new(py, encoder.adopt(py, &draft)?)?,
            });
        }
        if position.checked_add(own.len() as i64).is_none() {
            return Err(PyValueError::new_err("a position beyond the last"));
        }
        if !push_timestamp(&mut Vec::new(), recorded) {
            return Err(PyOverflowError::new_err("a time outside the years 0001-9999"));
        }
        Ok(Self {
            hashes: Mutex::new(Vec::with_capacity(own.len())),
            drafts: own,
            position,
            prev,
            recorded,
            recorded_at,
            receipt: encoder.receipt.clone_ref(py),
            made: OnceLock::new(),
        })
    }

    fn __len__(&self) -> usize {
        self.drafts.len()
    }

    fn __getitem__(&self, py: Python<'_>, index: isize) -> PyResult<Py<ChainedDraft>> {
        let length = self.drafts.len() as isize;
        let place = if index < 0 { index + length } else { index };
        let place = usize::try_from(place).ok().filter(|place| *place < self.drafts.len());
        let Some(place) = place else { return Err(PyIndexError::new_err("no such entry")) };
        match self.made.get() {
            Some(made) => Ok(made[place].clone_ref(py)),
            None => Py::new(py, self.link(py, place)),
        }
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.made.get().is_none() {
            py.detach(|| self.chain(self.drafts.len()));
            let links = (0..self.drafts.len()).map(|place| Py::new(py, self.link(py, place)));
            let links = links.collect::<PyResult<Vec<_>>>()?;
            let _ = self.made.set(links);
        }
        let made = self.made.get().map_or(&[][..], Vec::as_slice);
        Ok(PyList::new(py, made.iter().map(|link| link.clone_ref(py)))?.try_iter()?.into_any())
    }

    /// The data of a binary COPY of all rows, ledger_id first, piece by piece.
    fn copy_data(this: Bound<'_, Self>, ledger_id: i32) -> CopyData {
        CopyData { links: this.unbind(), ledger_id, next: 0, ended: false }
    }
}

impl Links {
    /// Without the interpreter's lock, or for moments only: whoever holds it must not wait for one who needs it.
    fn locked(&self) -> MutexGuard<'_, Vec<Hash>> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes the entries before the index `end`.
    fn chain(&self, end: usize) {
        let mut envelope = Vec::with_capacity(600);
        let mut stamp = Vec::with_capacity(27);
        push_timestamp(&mut stamp, self.recorded);
        let mut hashes = self.locked();
        for place in hashes.len()..end {
            let draft = self.drafts[place].get();
            envelope.clear();
            envelope.extend_from_slice(draft.parts.who());
            push_hex(&mut envelope, draft.body_hash());
            envelope.extend_from_slice(draft.parts.when());
            push_number(&mut envelope, self.position + 1 + place as i64);
            envelope.extend_from_slice(b",\"prev\":\"");
            push_hex(&mut envelope, if place == 0 { &self.prev } else { &hashes[place - 1] });
            envelope.extend_from_slice(b"\",\"recorded_at\":\"");
            envelope.extend_from_slice(&stamp);
            envelope.extend_from_slice(b"\",");
            envelope.extend_from_slice(draft.parts.resource());
            hashes.push(blake3::hash(&envelope).into());
        }
    }

    /// The hash before an entry, and its own.
    fn hashes_of(&self, py: Python<'_>, place: usize) -> (Hash, Hash) {
        py.detach(|| {
            self.chain(place + 1);
            let hashes = self.locked();
            (if place == 0 { self.prev } else { hashes[place - 1] }, hashes[place])
        })
    }

    fn link(&self, py: Python<'_>, place: usize) -> ChainedDraft {
        let (prev, hash) = self.hashes_of(py, place);
        ChainedDraft {
            draft: self.drafts[place].clone_ref(py),
            position: self.position + 1 + place as i64,
            prev,
            hash,
            recorded_at: self.recorded_at.clone_ref(py),
            receipt: self.receipt.clone_ref(py),
        }
    }

    fn push_row(&self, out: &mut Vec<u8>, ledger_id: i32, place: usize) {
        let draft = self.drafts[place].get();
        let (prev, hash) = {
            let hashes = self.locked();
            (if place == 0 { self.prev } else { hashes[place - 1] }, hashes[place])
        };
        out.extend_from_slice(&FIELDS.to_be_bytes());
        push_field(out, Some(&ledger_id.to_be_bytes()));
        push_field(out, Some(&(self.position + 1 + place as i64).to_be_bytes()));
        push_field(out, Some(&draft.id));
        push_field(out, Some(&self.recorded.to_be_bytes()));
        push_field(out, Some(&draft.occurred.to_be_bytes()));
        out.extend_from_slice(draft.parts.columns());
        for text in 0..3 {
            push_field(out, draft.text(text));
        }
        for bytes in [&draft.salt[..], draft.body_hash(), &prev, &hash] {
            push_field(out, Some(bytes));
        }
    }
}

/// The pieces of a COPY.
#[pyclass]
pub struct CopyData {
    links: Py<Links>,
    ledger_id: i32,
    next: usize,
    ended: bool,
}

#[pymethods]
impl CopyData {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        if self.ended {
            return None;
        }
        let links = self.links.get();
        let (ledger_id, begin) = (self.ledger_id, self.next);
        let (piece, next) = py.detach(|| {
            let mut piece = Vec::with_capacity(CHUNK + 4096);
            if begin == 0 {
                piece.extend_from_slice(&HEADER);
            }
            let mut next = begin;
            while next < links.drafts.len() && piece.len() < CHUNK {
                links.chain(next + 1);
                links.push_row(&mut piece, ledger_id, next);
                next += 1;
            }
            if next == links.drafts.len() {
                piece.extend_from_slice(&TRAILER);
            }
            (piece, next)
        });
        self.next = next;
        self.ended = next == links.drafts.len();
        Some(PyBytes::new(py, &piece))
    }
}
