//! Whether a value is of Python's own types and of what the format allows: what is not is left to Python.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};

use crate::entry::is_member;

/// The text of a str that keeps its rule; None for anything else.
pub fn member<'a>(value: &'a Bound<'_, PyAny>, most: usize) -> PyResult<Option<&'a str>> {
    if !value.is_exact_instance_of::<PyString>() {
        return Ok(None);
    }
    let text = value.cast::<PyString>()?.to_str()?;
    Ok(is_member(text, most).then_some(text))
}

/// Whether a value is made of dicts with string keys, lists and plain values, at most `levels` deep.
pub fn is_plain(value: &Bound<'_, PyAny>, levels: usize) -> PyResult<bool> {
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
pub fn has_nul(text: &[u8]) -> bool {
    text.contains(&b'\\') && text.windows(6).any(|six| six == b"\\u0000")
}
