//! Entries as values of Python: of rows, and of the stream.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple, PyType, PyTzInfo};

use crate::entry::Hash;
use crate::json::{body_of, envelope_of};
use crate::row::{fields, integer, not_a_row, some_of};
use crate::text::unhex;
use crate::times::Moment;

/// Makes Entries.
#[pyclass(frozen)]
pub struct Entries {
    entry: Py<PyType>,
    uuid: Py<PyType>,
    new: Py<PyAny>,
    set_int: Py<PyAny>,
    set_is_safe: Py<PyAny>,
    unknown: Py<PyAny>,
    utc: Py<PyTzInfo>,
}

#[pymethods]
impl Entries {
    /// entry, uuid: the types Entry and UUID. unknown: SafeUUID.unknown.
    #[new]
    fn new(py: Python<'_>, entry: Py<PyType>, uuid: Bound<'_, PyType>, unknown: Py<PyAny>) -> PyResult<Self> {
        // A UUID is made as its own __init__ makes it, without the checks of that, which take longer than all else.
        Ok(Self {
            entry,
            new: uuid.getattr("__new__")?.unbind(),
            set_int: uuid.getattr("int")?.getattr("__set__")?.unbind(),
            set_is_safe: uuid.getattr("is_safe")?.getattr("__set__")?.unbind(),
            uuid: uuid.unbind(),
            unknown,
            utc: PyTzInfo::utc(py)?.to_owned().unbind(),
        })
    }

    /// The Entry of a stream entry's fields: body is empty where it was erased, hash is in hex.
    ///
    /// None for one that is to be looked at otherwise: they are no bytes, a hash is not that of its bytes, or they are
    /// not as the ledger writes nearly all of them.
    fn parse<'py>(
        &self,
        py: Python<'py>,
        envelope: &Bound<'py, PyAny>,
        body: &Bound<'py, PyAny>,
        hash: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (Ok(envelope), Ok(body), Ok(hash)) =
            (envelope.cast::<PyBytes>(), body.cast::<PyBytes>(), hash.cast::<PyBytes>())
        else {
            return Ok(None);
        };
        let (envelope, body, hash) = (envelope.as_bytes(), body.as_bytes(), hash.as_bytes());
        let Some(hash) = unhex::<32>(hash) else { return Ok(None) };
        if *blake3::hash(envelope).as_bytes() != hash {
            return Ok(None);
        }
        let Ok(envelope) = std::str::from_utf8(envelope) else { return Ok(None) };
        let Some(parsed) = envelope_of(envelope) else { return Ok(None) };
        let mut texts = [None; 3];
        let mut salt = None;
        if !body.is_empty() {
            if *blake3::hash(body).as_bytes() != parsed.body {
                return Ok(None);
            }
            let Ok(body) = std::str::from_utf8(body) else { return Ok(None) };
            let Some((values, salted)) = body_of(body) else { return Ok(None) };
            texts = values.map(|text| (text != "null").then_some(text));
            salt = Some(salted);
        }
        let (Some(recorded), Some(occurred)) =
            (self.moment(py, Some(parsed.recorded))?, self.moment(py, Some(parsed.occurred))?)
        else {
            return Ok(None);
        };
        let string = |text: Option<&str>| text.map(|text| PyString::new(py, text));
        let bytes = |hash: &Hash| PyBytes::new(py, hash);
        let values = PyTuple::new(
            py,
            [
                PyString::intern(py, parsed.ledger).into_any(),
                parsed.position.into_pyobject(py)?.into_any(),
                self.uuid_of(py, &parsed.id)?,
                recorded,
                occurred,
                PyString::new(py, parsed.actor).into_any(),
                PyString::new(py, parsed.actor_type).into_any(),
                PyString::new(py, parsed.action).into_any(),
                string(parsed.resource_type).into_pyobject(py)?.into_any(),
                string(parsed.resource_id).into_pyobject(py)?.into_any(),
                string(texts[0]).into_pyobject(py)?.into_any(),
                string(texts[1]).into_pyobject(py)?.into_any(),
                string(texts[2]).into_pyobject(py)?.into_any(),
                salt.map(|salt| PyBytes::new(py, &salt)).into_pyobject(py)?.into_any(),
                bytes(&parsed.body).into_any(),
                bytes(&parsed.prev).into_any(),
                bytes(&hash).into_any(),
            ],
        )?;
        self.entry.bind(py).call1(values).map(Some)
    }

    /// Appends to a list the Entries of the messages of a COPY OUT, whatever they hold. ledger: the name.
    ///
    /// A time outside the years 0001-9999 is None, as is NULL. Returns about how many bytes their bodies take. Raises
    /// ValueError for a message that is no row.
    fn take(
        &self,
        py: Python<'_>,
        ledger: &Bound<'_, PyString>,
        messages: &Bound<'_, PyList>,
        entries: &Bound<'_, PyList>,
    ) -> PyResult<usize> {
        let mut size = 0;
        let mut recorded_last: Option<(i64, Bound<'_, PyAny>)> = None;
        let mut index = 0;
        while index < messages.len() {
            let some = some_of(messages, index)?;
            index += some.len();
            for message in &some {
                let Some(row) = fields(message.as_bytes()).ok_or_else(not_a_row)? else { continue };
                let recorded = match (integer(row[2]), &recorded_last) {
                    (Some(stored), Some((last, moment))) if stored == *last => Some(moment.clone()),
                    (stored, _) => {
                        let moment = self.moment(py, stored)?;
                        recorded_last = stored.zip(moment.clone());
                        moment
                    }
                };
                let mut values = Vec::with_capacity(17);
                values.push(ledger.clone().into_any());
                values.push(integer(row[0]).into_pyobject(py)?.into_any());
                values.push(match row[1] {
                    Some(id) => self.uuid_of(py, id.try_into().map_err(|_| not_a_row())?)?,
                    None => py.None().into_bound(py),
                });
                values.push(recorded.into_pyobject(py)?);
                values.push(self.moment(py, integer(row[3]))?.into_pyobject(py)?);
                for field in &row[4..12] {
                    values.push(match field {
                        Some(text) => PyString::from_bytes(py, text)?.into_any(),
                        None => py.None().into_bound(py),
                    });
                }
                for field in &row[12..] {
                    values.push(match field {
                        Some(bytes) => PyBytes::new(py, bytes).into_any(),
                        None => py.None().into_bound(py),
                    });
                }
                size += row[9..12].iter().map(|text| text.map_or(0, <[u8]>::len)).sum::<usize>();
                entries.append(self.entry.bind(py).call1(PyTuple::new(py, values)?)?)?;
            }
        }
        Ok(size)
    }
}

impl Entries {
    fn uuid_of<'py>(&self, py: Python<'py>, id: &[u8; 16]) -> PyResult<Bound<'py, PyAny>> {
        let uuid = self.new.bind(py).call1((&self.uuid,))?;
        self.set_int.bind(py).call1((&uuid, u128::from_be_bytes(*id)))?;
        self.set_is_safe.bind(py).call1((&uuid, &self.unknown))?;
        Ok(uuid)
    }

    fn moment<'py>(&self, py: Python<'py>, stored: Option<i64>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(moment) = stored.and_then(Moment::from_stored) else { return Ok(None) };
        moment.to_python(py, self.utc.bind(py)).map(Some)
    }
}
