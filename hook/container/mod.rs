//! The container that is being created: what it asks for, and the process it will live in.
//!
//! [`State`] is what the runtime writes to the hook's standard input; its annotations hold the [`Requests`]. [`Spec`] is the
//! little that is read of the bundle's `config.json`. [`Process`] holds the container's first process and its namespaces by
//! descriptor. Nothing here changes anything, and all of it comes from outside: a request is a wish that only a grant fulfils.

mod file_name;
mod key;
mod mounts;
mod process;
mod procfs;
mod request;
mod spec;
mod state;

pub use file_name::{FileName, FileNameError};
pub use key::KeyError;
pub use mounts::{Mount, Mounts, MountsError};
pub use process::{Process, ProcessError};
pub use procfs::{Procfs, ProcfsError};
pub use request::{FILES_MAX, Owner, Request, RequestError, Requests};
pub use spec::{SPEC_BYTES_MAX, Spec, SpecError, read_spec};
pub use state::{STATE_BYTES_MAX, STATE_DEADLINE, State, StateError, is_sandbox};

use serde::{Deserialize, Deserializer};

/// Reads `null` like an absent field: engines written in Go leave empty maps and lists as `null`.
fn null_is_empty<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
