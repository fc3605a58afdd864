//! Drafts of the rows of the outbox.

use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

use crate::draft::{Draft, Parts, body_of};
use crate::encoder::Encoder;
use crate::entry::{ACTION, ACTOR, ACTOR_TYPE, MAX_BODY, OWN_ACTIONS, RESOURCE_ID, RESOURCE_TYPE};
use crate::plain::member;

const SALT: usize = 16;

/// A draft for each row, in order; None for one that Python is to look at.
///
/// rows: tuples as capture/outbox_rows.py's Waiting. random: 16 bytes a row, for the salts.
#[pyfunction]
pub fn drafts_of_rows(
    py: Python<'_>,
    encoder: &Encoder,
    rows: &Bound<'_, PyList>,
    ledger: &str,
    random: &[u8],
) -> PyResult<Vec<Option<Draft>>> {
    if random.len() != SALT * rows.len() {
        return Err(PyValueError::new_err("16 random bytes a row"));
    }
    let mut drafts = Vec::with_capacity(rows.len());
    for (row, salt) in rows.iter().zip(random.chunks_exact(SALT)) {
        let salt = salt.try_into().expect("16 bytes");
        drafts.push(match draft_of(py, encoder, row.cast::<PyTuple>()?, ledger, salt) {
            Err(error) if error.is_instance_of::<PyException>(py) => None,
            draft => draft?,
        });
    }
    Ok(drafts)
}

fn draft_of(
    py: Python<'_>,
    encoder: &Encoder,
    row: &Bound<'_, PyTuple>,
    ledger: &str,
    salt: [u8; SALT],
) -> PyResult<Option<Draft>> {
    let id = row.get_item(1)?;
    let occurred_at = row.get_item(4)?;
    let moment = if occurred_at.is_none() { row.get_item(3)? } else { occurred_at.clone() };
    let [actor, actor_type, action] = [row.get_item(5)?, row.get_item(6)?, row.get_item(7)?];
    let [resource_type, resource_id] = [row.get_item(8)?, row.get_item(9)?];
    let (Some(actor_text), Some(actor_type_text), Some(action_text), Some(occurred)) = (
        member(&actor, ACTOR)?,
        member(&actor_type, ACTOR_TYPE)?,
        member(&action, ACTION)?,
        encoder.stored(py, &moment)?,
    ) else {
        return Ok(None);
    };
    let kind = member(&resource_type, RESOURCE_TYPE)?;
    let resource = member(&resource_id, RESOURCE_ID)?;
    if action_text.starts_with(OWN_ACTIONS)
        || kind.is_none() != resource_type.is_none()
        || resource.is_none() != resource_id.is_none()
        || kind.is_none() != resource.is_none()
    {
        return Ok(None);
    }
    let mut compacted = [const { None }; 3];
    for (place, compacted) in (10..13).zip(&mut compacted) {
        let text = row.get_item(place)?;
        if !text.is_none() {
            *compacted = Some(compact(text.cast::<PyString>()?.to_str()?.as_bytes()));
        }
    }
    let (body, texts) = body_of(compacted.each_ref().map(|text| text.as_deref()), &salt);
    if body.len() > MAX_BODY {
        return Ok(None);
    }
    let id_bytes = id.getattr(intern!(py, "int"))?.extract::<u128>()?.to_be_bytes();
    let names = [Some(actor_text), Some(actor_type_text), Some(action_text), kind, resource];
    let Some(parts) = Parts::new(names, ledger, &id_bytes, occurred) else { return Ok(None) };
    let given = |value: Bound<'_, PyAny>| (!value.is_none()).then(|| value.unbind());
    Ok(Some(Draft {
        event_type: encoder.event.clone_ref(py),
        uuid_type: encoder.uuid.clone_ref(py),
        members: [
            given(actor),
            given(action),
            given(resource_type),
            given(resource_id),
            given(actor_type),
            given(id),
            None,
            given(occurred_at),
        ],
        id: id_bytes,
        uuid: OnceLock::new(),
        named: true,
        occurred,
        body,
        texts,
        salt,
        body_hash: OnceLock::new(),
        parts,
    }))
}

/// Valid JSON without the blanks between its parts, which stay to the letter.
fn compact(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}
