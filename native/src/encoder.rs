//! Makes drafts of events, the quick way, or of the drafts that Python made.

use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDateTime, PyIterator, PyList, PyString, PyType};
use pyo3::{PyTypeInfo, intern};

use crate::draft::{Draft, Parts, TEXT_COLUMNS, body_of};
use crate::entry::{ACTION, ACTOR, ACTOR_TYPE, MAX_BODY, MAX_DEPTH, OWN_ACTIONS, RESOURCE_ID, RESOURCE_TYPE};
use crate::ids::{id_for, uuid7};
use crate::plain::{has_nul, is_plain, member};
use crate::times::Moment;

const MOST_OF_A_KEY: usize = 1024;
/// Random bytes of a draft: 10 for the UUID, 16 for the salt; and of how many drafts they are asked for at a time.
const RANDOM: usize = 26;
const RANDOM_EVENTS: usize = 64;
/// Microseconds.
const FROM_1970_TO_2000: i64 = 946_684_800_000_000;

/// What of Python's is needed to make drafts, and values of Python from them.
#[pyclass(frozen)]
pub struct Encoder {
    pub event: Py<PyType>,
    pub uuid: Py<PyType>,
    pub receipt: Py<PyType>,
    utc: Py<PyAny>,
    json: Py<PyAny>,
}

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
    pub fn stored(&self, py: Python<'_>, moment: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
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
