//! The container that is being created: what it asks for, and the process it will live in.
//!
//! [`State`] is what the runtime writes to the hook's standard input; its [`Annotations`] hold the [`Requests`]. [`Spec`] is what
//! is read of the bundle's `config.json`. [`Process`] holds the container's first process and its namespaces by descriptor.
//! Nothing here changes anything, and all of it comes from outside: only a grant permits what a request asks for.

mod annotations;
mod file_name;
mod hooks;
mod id_map;
mod image;
mod key;
mod misplaced;
mod mounts;
mod pod;
mod process;
mod procfs;
mod request;
mod sandboxed;
mod spec;
mod state;
mod update;
mod withdraw;

pub use annotations::{Annotations, Contradiction, Manager, NAMESPACE_KEYS, Value, Why, author_chooses, is_identity};
pub use file_name::{FileName, FileNameError};
pub use hooks::{CHECK_ANNOTATIONS, HOOK_NAME, Hooks, is_hook};
pub use id_map::{IdMapError, IdMaps};
pub use image::{IMAGE_HINT, ImageError, annotations_of_image};
pub use key::{KeyError, is_ours};
pub use misplaced::is_reference;
pub use mounts::{Mount, Mounts, MountsError};
pub use pod::Pod;
pub use process::{Process, ProcessError};
pub use procfs::{Procfs, ProcfsError};
pub use request::{FILES_MAX, Owner, Request, RequestError, Requests, refuse_misplaced};
pub use spec::{SPEC_BYTES_MAX, Spec, SpecError, read_spec};
pub use state::{STATE_BYTES_MAX, STATE_DEADLINE, State, StateError};
pub use update::{Update, UpdateError};

use serde::{Deserialize, Deserializer};

/// Reads `null` like an absent field: engines written in Go leave empty maps and lists as `null`.
pub(crate) fn null_is_empty<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
