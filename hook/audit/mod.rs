//! The audit trail: one line of JSON for every container that asked for secrets, whether it got them or not.
//!
//! It tells who asked for what and on which grounds it was decided; never a value, and never the length of one.

mod record;
mod trail;

use std::path::PathBuf;

use crate::errno::Errno;
use crate::settings::FileError;

pub use self::record::Record;
pub use self::trail::Trail;

/// Why the audit trail cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot keep the audit file")]
    Open {
        /// What is wrong with it.
        source: FileError,
    },
    /// The file does not take a line.
    #[error("cannot write to the audit file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// The record is not JSON.
    #[error("cannot encode the audit record")]
    Encode {
        /// The library's account.
        source: serde_json::Error,
    },
}
