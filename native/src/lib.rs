//! The native core of auditledger. What it makes is the same, byte for byte, as what the Python of `ledger/format`
//! makes, which is the reference: whatever the core cannot take the quick way it leaves to Python.
//!
//! It knows neither Postgres' nor Redis' protocol, only the rows of a binary COPY and the fields of a stream entry.

#![deny(unsafe_code)]

mod check;
mod draft;
mod encoder;
mod entries;
mod entry;
mod ids;
mod json;
mod links;
mod outbox;
mod plain;
mod publish;
mod row;
mod text;
mod times;

use pyo3::prelude::*;

#[pymodule]
mod ledger_native {
    #[pymodule_export]
    use crate::check::Check;
    #[pymodule_export]
    use crate::draft::Draft;
    #[pymodule_export]
    use crate::encoder::Encoder;
    #[pymodule_export]
    use crate::entries::Entries;
    #[pymodule_export]
    use crate::links::{ChainedDraft, Links};
    #[pymodule_export]
    use crate::outbox::drafts_of_rows;
    #[pymodule_export]
    use crate::publish::Publish;
    #[pymodule_export]
    use crate::row::columns;

    /// The version of what Python and the core agree on. Another one is not used.
    #[pymodule_export]
    const INTERFACE: u32 = 2;
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
