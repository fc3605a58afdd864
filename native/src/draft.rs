//! Events made ready for the chain: all bytes of an entry but those that only its position can give.

use std::ops::Range;
use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDateTime, PyDict, PyFloat, PyInt, PyIterator, PyList, PyString, PyType};
use pyo3::{PyTypeInfo, intern};

use crate::entry::{
    ACTION, ACTOR, ACTOR_TYPE, Hash, MAX_BODY, MAX_DEPTH, OWN_ACTIONS, RESOURCE_ID, RESOURCE_TYPE, is_member,
    push_body, push_resource, push_who,
};
use crate::row::push_field;
use crate::text::push_uuid;
use crate::times::{Moment, push_timestamp};

const KEY_CONTEXT: &str = "auditledger 2026-11 idempotency key to entry id";
const MOST_OF_A_KEY: usize = 1024;
/// Random bytes of a draft: 10 for the UUID, 16 for the salt; and of how many drafts they are asked for at a time.
const RANDOM: usize = 26;
const RANDOM_EVENTS: usize = 64;
/// Microseconds.
const FROM_1970_TO_2000: i64 = 946_684_800_000_000;

/// What of Python's is needed to make drafts, and values of Python from them.
#[pyclass(frozen)]
pub struct Encoder {
    event: Py<PyType>,
    pub uuid: Py<PyType>,
    pub receipt: Py<PyType>,
    utc: Py<PyAny>,
    json: Py<PyAny>,
}

/// An event ready for the chain.
#[pyclass(frozen)]
pub struct Draft {
    event_type: Py<PyType>,
    uuid_type: Py<PyType>,
    members: [Option<Py<PyAny>>; 8],
    pub id: [u8; 16],
    uuid: OnceLock<Py<PyAny>>,
    #[pyo3(get)]
    named: bool,
    #[pyo3(get)]
    pub occurred: i64,
    pub body: Vec<u8>,
    texts: [Option<Range<usize>>; 3],
    pub salt: [u8; 16],
    body_hash: OnceLock<Hash>,
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
    fn new(names: [Option<&str>; 5], ledger: &str, id: &[u8; 16], occurred: i64) -> Option<Self> {
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
const TEXT_COLUMNS: [usize; 5] = [ACTOR_AT, ACTOR_TYPE_AT, ACTION_AT, RESOURCE_TYPE_AT, RESOURCE_ID_AT];

#[pymethods]
impl Encoder {
    /// event, uuid, receipt: the types Event, UUID and Receipt. utc: datetime.UTC. json: encodes a value as JSON with
    /// sorted keys.
    #[new]
    fn new(event: Py<PyType>, uuid: Py<PyType>, receipt: Py<PyType>, utc: Py<PyAny>, json: Py<PyAny>) -> Self {
        Self { event, uuid, receipt, utc, json }
    }

    /// Drafts of the next events, appended to a list as by `prepare`, until that holds `most` or takes `most_bytes`.
    ///
    /// size: the bytes that it takes. clock: returns nanoseconds since 1970. random: returns so many random bytes.
    /// Returns the first event that Python is to look at, before which it stopped, in a tuple (an event may be None), or
    /// None; and the bytes that the list takes. What the iterator raises passes through.
    #[allow(clippy::too_many_arguments)]
    fn take(
        &self,
        py: Python<'_>,
        events: &Bound<'_, PyIterator>,
        ledger: &str,
        drafts: &Bound<'_, PyList>,
        most: usize,
        size: usize,
        most_bytes: usize,
        clock: &Bound<'_, PyAny>,
        random: &Bound<'_, PyAny>,
    ) -> PyResult<(Option<(Py<PyAny>,)>, usize)> {
        let mut size = size;
        let mut randomness = random.call1((0,))?.cast_into::<PyBytes>()?;
        let mut used = 0;
        while drafts.len() < most && size < most_bytes {
            let Some(event) = events.clone().next().transpose()? else { return Ok((None, size)) };
            if used == randomness.as_bytes().len() {
                randomness = random.call1((RANDOM * RANDOM_EVENTS,))?.cast_into::<PyBytes>()?;
                used = 0;
            }
            let slice = randomness.as_bytes().get(used..used + RANDOM).unwrap_or_default();
            let slice: [u8; RANDOM] = slice.try_into().map_err(|_| PyValueError::new_err("too few random bytes"))?;
            used += RANDOM;
            match self.prepare(py, &event, ledger, clock.call0()?.extract()?, slice, false)? {
                Some(draft) => {
                    size += draft.size();
                    drafts.append(Bound::new(py, draft)?)?;
                }
                None => return Ok((Some((event.unbind(),)), size)),
            }
        }
        Ok((None, size))
    }

    /// The draft of an event for the ledger of this name; None for one that Python is to look at: whatever is not of
    /// Python's own types, and whatever the format does not allow.
    ///
    /// now: nanoseconds since 1970: the time of an event that has no occurred_at, and of the UUIDv7 of one that has
    /// neither id nor idempotency_key. randomness: 26 bytes, 10 for the UUID and 16 for the salt. own: allow the
    /// ledger's own actions.
    fn prepare(
        &self,
        py: Python<'_>,
        event: &Bound<'_, PyAny>,
        ledger: &str,
        now: i64,
        randomness: [u8; RANDOM],
        own: bool,
    ) -> PyResult<Option<Draft>> {
        if now < 0 || !event.get_type().is(&self.event) {
            return Ok(None);
        }
        match self.quickly(py, event, ledger, now, &randomness, own) {
            Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
            outcome => outcome,
        }
    }
}

impl Encoder {
    fn quickly(
        &self,
        py: Python<'_>,
        event: &Bound<'_, PyAny>,
        ledger: &str,
        now: i64,
        randomness: &[u8; RANDOM],
        own: bool,
    ) -> PyResult<Option<Draft>> {
        let (random, salt) = split(randomness);
        let actor = event.getattr(intern!(py, "actor"))?;
        let action = event.getattr(intern!(py, "action"))?;
        let actor_type = event.getattr(intern!(py, "actor_type"))?;
        let resource_type = event.getattr(intern!(py, "resource_type"))?;
        let resource_id = event.getattr(intern!(py, "resource_id"))?;
        let (Some(actor_text), Some(action_text), Some(actor_type_text)) =
            (member(&actor, ACTOR)?, member(&action, ACTION)?, member(&actor_type, ACTOR_TYPE)?)
        else {
            return Ok(None);
        };
        if !own && action_text.starts_with(OWN_ACTIONS) {
            return Ok(None);
        }
        let resource = match (resource_type.is_none(), resource_id.is_none()) {
            (true, true) => (None, None),
            (false, false) => match (member(&resource_type, RESOURCE_TYPE)?, member(&resource_id, RESOURCE_ID)?) {
                (Some(kind), Some(id)) => (Some(kind), Some(id)),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let mut encoded = [const { None }; 3];
        let values = [intern!(py, "before"), intern!(py, "after"), intern!(py, "metadata")];
        for (name, encoded) in values.into_iter().zip(&mut encoded) {
            let value = event.getattr(name)?;
            if value.is_none() {
                continue;
            }
            if !is_plain(&value, MAX_DEPTH)? {
                return Ok(None);
            }
            let text = self.json.bind(py).call1((value,))?.cast_into::<PyBytes>()?;
            if has_nul(text.as_bytes()) {
                return Ok(None);
            }
            *encoded = Some(text);
        }
        let chosen = event.getattr(intern!(py, "id"))?;
        let key = event.getattr(intern!(py, "idempotency_key"))?;
        let id = match (chosen.is_none(), key.is_none()) {
            (true, true) => uuid7(now, random),
            (true, false) => match member(&key, MOST_OF_A_KEY)? {
                Some(key) => id_for(key),
                None => return Ok(None),
            },
            (false, true) if chosen.get_type().is(&self.uuid) => {
                let bytes = chosen.getattr(intern!(py, "bytes"))?.cast_into::<PyBytes>()?;
                let Ok(id) = bytes.as_bytes().try_into() else { return Ok(None) };
                id
            }
            _ => return Ok(None),
        };
        let occurred_at = event.getattr(intern!(py, "occurred_at"))?;
        let occurred = if occurred_at.is_none() {
            now / 1000 - FROM_1970_TO_2000
        } else {
            match self.stored(py, &occurred_at)? {
                Some(stored) => stored,
                None => return Ok(None),
            }
        };
        let (body, texts) = body_of(encoded.each_ref().map(|text| text.as_ref().map(|text| text.as_bytes())), salt);
        if body.len() > MAX_BODY {
            return Ok(None);
        }
        let names = [Some(actor_text), Some(actor_type_text), Some(action_text), resource.0, resource.1];
        let Some(parts) = Parts::new(names, ledger, &id, occurred) else { return Ok(None) };
        let given = |value: Bound<'_, PyAny>| (!value.is_none()).then(|| value.unbind());
        let named = !chosen.is_none() || !key.is_none();
        Ok(Some(Draft {
            event_type: self.event.clone_ref(py),
            uuid_type: self.uuid.clone_ref(py),
            members: [
                given(actor),
                given(action),
                given(resource_type),
                given(resource_id),
                given(actor_type),
                given(chosen),
                given(key),
                given(occurred_at),
            ],
            id,
            uuid: OnceLock::new(),
            named,
            occurred,
            body,
            texts,
            salt: *salt,
            body_hash: OnceLock::new(),
            parts,
        }))
    }

    /// A datetime in UTC as Postgres stores it; None for any other.
    fn stored(&self, py: Python<'_>, moment: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
        if !moment.get_type().is(PyDateTime::type_object(py)) {
            return Ok(None);
        }
        if !moment.getattr(intern!(py, "tzinfo"))?.is(&self.utc) {
            return Ok(None);
        }
        let part = |name: &Bound<'_, PyString>| moment.getattr(name)?.extract::<i64>();
        let moment = Moment {
            year: part(intern!(py, "year"))?,
            month: part(intern!(py, "month"))?,
            day: part(intern!(py, "day"))?,
            hour: part(intern!(py, "hour"))?,
            minute: part(intern!(py, "minute"))?,
            second: part(intern!(py, "second"))?,
            microsecond: part(intern!(py, "microsecond"))?,
        };
        Ok(moment.stored())
    }

    /// The draft that Python made of an event.
    pub fn adopt(&self, py: Python<'_>, draft: &Bound<'_, PyAny>) -> PyResult<Draft> {
        let event = draft.getattr("event")?;
        let head = draft.getattr("envelope_head")?.extract::<Vec<u8>>()?;
        let ledger = ledger_of(&head).ok_or_else(|| PyValueError::new_err("a draft without the name of its ledger"))?;
        let text = |name: &str| draft.getattr(name)?.extract::<Option<Vec<u8>>>();
        let texts = [text("before")?, text("after")?, text("metadata")?];
        let mut members = Vec::with_capacity(8);
        for name in
            ["actor", "action", "resource_type", "resource_id", "actor_type", "id", "idempotency_key", "occurred_at"]
        {
            members.push(event.getattr(name)?.extract::<Option<Py<PyAny>>>()?);
        }
        let string = |place: usize| -> PyResult<Option<String>> {
            members[place].as_ref().map(|text: &Py<PyAny>| text.bind(py).extract()).transpose()
        };
        let names = TEXT_COLUMNS.into_iter().map(string).collect::<PyResult<Vec<_>>>()?;
        let names = std::array::from_fn(|place| names[place].as_deref());
        let salt = draft.getattr("salt")?.extract::<[u8; 16]>()?;
        let id = draft.getattr("id_bytes")?.extract::<[u8; 16]>()?;
        let occurred = draft.getattr("occurred")?.extract()?;
        let parts = Parts::new(names, ledger, &id, occurred)
            .ok_or_else(|| PyOverflowError::new_err("a time outside the years 0001-9999"))?;
        let (body, texts) = body_of(texts.each_ref().map(|text| text.as_deref()), &salt);
        Ok(Draft {
            event_type: self.event.clone_ref(py),
            uuid_type: self.uuid.clone_ref(py),
            members: members.try_into().map_err(|_| PyTypeError::new_err("no Event"))?,
            id,
            uuid: OnceLock::new(),
            named: draft.getattr("named")?.extract()?,
            occurred,
            body,
            texts,
            salt,
            body_hash: OnceLock::new(),
            parts,
        })
    }
}

/// A body's bytes, and where before, after and metadata stand in it.
fn body_of(texts: [Option<&[u8]>; 3], salt: &[u8; 16]) -> (Vec<u8>, [Option<Range<usize>>; 3]) {
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
    fn size(&self) -> usize {
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
    let utc = pyo3::types::PyTzInfo::utc(py)?;
    let made = PyDateTime::new(
        py,
        moment.year as i32,
        moment.month as u8,
        moment.day as u8,
        moment.hour as u8,
        moment.minute as u8,
        moment.second as u8,
        moment.microsecond as u32,
        Some(&utc),
    )?;
    Ok(made.into_any())
}

/// The text of a str that keeps its rule; None for anything else.
fn member<'a>(value: &'a Bound<'_, PyAny>, most: usize) -> PyResult<Option<&'a str>> {
    if !value.is_exact_instance_of::<PyString>() {
        return Ok(None);
    }
    let text = value.cast::<PyString>()?.to_str()?;
    Ok(is_member(text, most).then_some(text))
}

/// Whether a value is made of dicts with string keys, lists and plain values, at most `levels` deep.
fn is_plain(value: &Bound<'_, PyAny>, levels: usize) -> PyResult<bool> {
    if value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_none()
    {
        return Ok(true);
    }
    if value.is_exact_instance_of::<PyFloat>() {
        return Ok(value.extract::<f64>()?.is_finite());
    }
    if levels == 0 {
        return Ok(false);
    }
    if value.is_exact_instance_of::<PyDict>() {
        for (key, item) in value.cast::<PyDict>()?.iter() {
            if !key.is_exact_instance_of::<PyString>() || !is_plain(&item, levels - 1)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if value.is_exact_instance_of::<PyList>() {
        for item in value.cast::<PyList>()?.iter() {
            if !is_plain(&item, levels - 1)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    Ok(false)
}

/// Whether a JSON text may hold U+0000: Python says so for sure.
fn has_nul(text: &[u8]) -> bool {
    text.contains(&b'\\') && text.windows(6).any(|six| six == b"\\u0000")
}

/// The ledger's name in the beginning of an envelope: it holds no quote, and no other member's text an unescaped one.
fn ledger_of(head: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = b"\",\"ledger\":\"";
    let start = head.windows(BEFORE.len()).rposition(|part| part == BEFORE)? + BEFORE.len();
    let length = head[start..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&head[start..start + length]).ok()
}

fn split(randomness: &[u8; RANDOM]) -> (&[u8; 10], &[u8; 16]) {
    let (for_id, for_salt) = randomness.split_at(10);
    (for_id.try_into().expect("10 bytes"), for_salt.try_into().expect("16 bytes"))
}

/// RFC 9562, section 5.7, with the sub-millisecond fraction of section 6.2, method 3. now: nanoseconds since 1970.
fn uuid7(now: i64, random: &[u8; 10]) -> [u8; 16] {
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
fn id_for(key: &str) -> [u8; 16] {
    let mut id = [0; 16];
    blake3::Hasher::new_derive_key(KEY_CONTEXT).update(key.as_bytes()).finalize_xof().fill(&mut id);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}
