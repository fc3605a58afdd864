//! Events made ready for the chain: all bytes of an entry but those that only its position can give.

use std::ops::Range;
use std::sync::OnceLock;

use pyo3::exceptions::PyOverflowError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType, PyTzInfo};

use crate::entry::{Hash, push_body, push_resource, push_who};
use crate::row::push_field;
use crate::text::push_uuid;
use crate::times::{Moment, push_timestamp};

/// An event ready for the chain.
#[pyclass(frozen)]
pub struct Draft {
    pub event_type: Py<PyType>,
    pub uuid_type: Py<PyType>,
    pub members: [Option<Py<PyAny>>; 8],
    pub id: [u8; 16],
    pub uuid: OnceLock<Py<PyAny>>,
    #[pyo3(get)]
    pub named: bool,
    #[pyo3(get)]
    pub occurred: i64,
    pub body: Vec<u8>,
    pub texts: [Option<Range<usize>>; 3],
    pub salt: [u8; 16],
    pub body_hash: OnceLock<Hash>,
    pub parts: Parts,
}

/// What is ready of a row and an envelope, one behind the other.
pub struct Parts {
    bytes: Vec<u8>,
    who: usize,
    when: usize,
    resource: usize,
}

impl Parts {
    /// names: actor, actor_type, action, resource_type and resource_id. None if the time is outside the years
    /// 0001-9999.
    pub fn new(names: [Option<&str>; 5], ledger: &str, id: &[u8; 16], occurred: i64) -> Option<Self> {
        let mut bytes = Vec::with_capacity(448);
        for name in names {
            push_field(&mut bytes, name.map(str::as_bytes));
        }
        let who = bytes.len();
        let [actor, actor_type, action, resource_type, resource_id] = names;
        push_who(&mut bytes, action.unwrap_or_default(), actor.unwrap_or_default(), actor_type.unwrap_or_default());
        let when = bytes.len();
        bytes.extend_from_slice(b"\",\"id\":\"");
        push_uuid(&mut bytes, id);
        bytes.extend_from_slice(b"\",\"ledger\":\"");
        bytes.extend_from_slice(ledger.as_bytes());
        bytes.extend_from_slice(b"\",\"occurred_at\":\"");
        if !push_timestamp(&mut bytes, occurred) {
            return None;
        }
        bytes.extend_from_slice(b"\",");
        bytes.extend_from_slice(POSITION);
        let resource = bytes.len();
        push_resource(&mut bytes, resource_type, resource_id);
        Some(Self { bytes, who, when, resource })
    }

    /// The fields of its row from the actor to the resource_id, as COPY has them.
    pub fn columns(&self) -> &[u8] {
        &self.bytes[..self.who]
    }

    /// The envelope up to the body's hash.
    pub fn who(&self) -> &[u8] {
        &self.bytes[self.who..self.when]
    }

    /// The envelope from the body's hash to the position.
    pub fn when(&self) -> &[u8] {
        &self.bytes[self.when..self.resource]
    }

    /// The envelope from the resource on.
    pub fn resource(&self) -> &[u8] {
        &self.bytes[self.resource..]
    }
}

/// What stands in an envelope before the position.
const POSITION: &[u8] = b"\"position\":";

/// The members of an Event, by their places in `Draft.members`.
const ACTOR_AT: usize = 0;
const ACTION_AT: usize = 1;
const RESOURCE_TYPE_AT: usize = 2;
const RESOURCE_ID_AT: usize = 3;
const ACTOR_TYPE_AT: usize = 4;
const ID_AT: usize = 5;
const KEY_AT: usize = 6;
const OCCURRED_AT: usize = 7;
/// As a row has them.
pub const TEXT_COLUMNS: [usize; 5] = [ACTOR_AT, ACTOR_TYPE_AT, ACTION_AT, RESOURCE_TYPE_AT, RESOURCE_ID_AT];

/// A body's bytes, and where before, after and metadata stand in it.
pub fn body_of(texts: [Option<&[u8]>; 3], salt: &[u8; 16]) -> (Vec<u8>, [Option<Range<usize>>; 3]) {
    let [before, after, metadata] = texts;
    let length = |text: Option<&[u8]>| text.map_or(4, <[u8]>::len);
    let mut body = Vec::with_capacity(80 + length(before) + length(after) + length(metadata));
    push_body(&mut body, before, after, metadata, salt);
    let after_at = "{\"after\":".len();
    let before_at = after_at + length(after) + ",\"before\":".len();
    let metadata_at = before_at + length(before) + ",\"metadata\":".len();
    let range = |start: usize, text: Option<&[u8]>| text.map(|text| start..start + text.len());
    (body, [range(before_at, before), range(after_at, after), range(metadata_at, metadata)])
}

#[pymethods]
impl Draft {
    /// What was said but for the body: an Event that the caller cannot change.
    #[getter]
    fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let named = PyDict::new(py);
        for (name, place) in [
            ("actor", ACTOR_AT),
            ("action", ACTION_AT),
            ("resource_type", RESOURCE_TYPE_AT),
            ("resource_id", RESOURCE_ID_AT),
            ("actor_type", ACTOR_TYPE_AT),
            ("id", ID_AT),
            ("idempotency_key", KEY_AT),
            ("occurred_at", OCCURRED_AT),
        ] {
            named.set_item(name, self.members[place].as_ref())?;
        }
        self.event_type.bind(py).call((), Some(&named))
    }

    #[getter]
    fn id_bytes(&self) -> &[u8] {
        &self.id
    }

    #[getter]
    pub fn id(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(known) = self.uuid.get() {
            return Ok(known.clone_ref(py));
        }
        let named = PyDict::new(py);
        named.set_item(intern!(py, "bytes"), PyBytes::new(py, &self.id))?;
        let uuid = self.uuid_type.bind(py).call((), Some(&named))?.unbind();
        Ok(self.uuid.get_or_init(|| uuid).clone_ref(py))
    }

    #[getter]
    pub fn occurred_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        datetime(py, self.occurred)
    }

    #[getter]
    fn before(&self) -> Option<&[u8]> {
        self.text(0)
    }

    #[getter]
    fn after(&self) -> Option<&[u8]> {
        self.text(1)
    }

    #[getter]
    fn metadata(&self) -> Option<&[u8]> {
        self.text(2)
    }

    #[getter]
    fn salt(&self) -> &[u8] {
        &self.salt
    }

    #[getter(body_hash)]
    fn body_hash_bytes(&self) -> &[u8] {
        self.body_hash()
    }

    /// About how many bytes it takes, for bounding batches: the same as a draft of Python's, so that batches are too.
    #[getter]
    pub fn size(&self) -> usize {
        let head = self.parts.who().len() + 2 * size_of::<Hash>() + self.parts.when().len() - POSITION.len();
        self.body.len() + head
    }
}

impl Draft {
    /// before, after or metadata as JSON.
    pub fn text(&self, place: usize) -> Option<&[u8]> {
        self.texts[place].clone().map(|range| &self.body[range])
    }

    /// BLAKE3-256 of the body; made when it is first asked for, by whoever holds no lock then.
    pub fn body_hash(&self) -> &Hash {
        self.body_hash.get_or_init(|| blake3::hash(&self.body).into())
    }

    /// The texts of the envelope, in the order of a row's columns.
    pub fn strings<'a, 'py: 'a>(&'a self, py: Python<'py>) -> impl Iterator<Item = Option<&'a Bound<'py, PyAny>>> {
        TEXT_COLUMNS.into_iter().map(move |place| self.members[place].as_ref().map(|text| text.bind(py)))
    }
}

/// A stored time as a datetime in UTC. Raises OverflowError outside the years 0001-9999.
pub fn datetime(py: Python<'_>, stored: i64) -> PyResult<Bound<'_, PyAny>> {
    let moment =
        Moment::from_stored(stored).ok_or_else(|| PyOverflowError::new_err("a time outside the years 0001-9999"))?;
    let utc = PyTzInfo::utc(py)?;
    moment.to_python(py, &utc)
}
