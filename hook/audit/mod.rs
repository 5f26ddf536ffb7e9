//! The audit trail: one line of JSON for every container that asked for secrets, whether it got them or not.
//!
//! It tells who asked for what and on which grounds it was decided; never a value, and never the length of one.

mod chain;
mod compare;
mod entry;
mod link;
mod record;
mod tail;
mod trail;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::retry::Seconds;
use crate::settings::FileError;

pub use self::chain::Chain;
pub use self::compare::{Comparison, Difference, compare};
pub use self::entry::{Entry, Filter, Line, Reading};
pub use self::link::{Hash, Link, NotAHash};
pub use self::record::Record;
pub use self::trail::Trail;
pub use self::verify::{Finding, Note, Problem, Verdict, Verification};

/// Why the audit trail cannot be kept.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot keep the audit file")]
    Open { source: FileError },
    /// The file does not take a line.
    #[error("cannot write to the audit file {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The file's last line cannot be read, and so not vouched for.
    #[error("cannot read the audit file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Someone holds the file's lock.
    #[error("cannot write to the audit file {}: others held its lock for {}", path.display(), Seconds(*patience))]
    Busy { path: PathBuf, patience: Duration },
    /// No file to read is known.
    #[error("the settings name no audit file")]
    NoFile,
    /// A chain is not as it was written; the places are told already.
    #[error("{problems} {} in the audit trail {} not as written", if *problems == 1 { "place" } else { "places" }, if *problems == 1 { "is" } else { "are" })]
    NotAsWritten { problems: usize },
    /// Our account and Connect's differ; the differences are told already.
    #[error("our account and 1Password Connect's differ in {differences} {}", if *differences == 1 { "place" } else { "places" })]
    Differ { differences: usize },
    /// The record is not JSON.
    #[error("cannot encode the audit record")]
    Encode { source: serde_json::Error },
}

impl Fault for AuditError {
    fn class(&self) -> Class {
        match self {
            AuditError::Open { source } => source.class(),
            AuditError::Encode { .. } => Class::Bug,
            AuditError::Read { errno, .. } if errno.is_not_found() => Class::NotFound,
            AuditError::NoFile => Class::Settings,
            AuditError::NotAsWritten { .. } | AuditError::Differ { .. } => Class::Data,
            AuditError::Write { .. } | AuditError::Read { .. } | AuditError::Busy { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            // The file is made where there is none, but its directory is not.
            AuditError::Open { source: FileError::Open { path, errno } } if errno.is_not_found() => {
                let directory = path.parent().filter(|directory| !directory.exists())?;
                return Some(format!("install -d -m 0700 {}", directory.display()));
            }
            AuditError::Open { source } => return source.hint(),
            AuditError::Busy { .. } => "`lslocks` shows who holds it",
            AuditError::NoFile => {
                "name files, or - to read the system log: journalctl -t oci-secrets-hook -o cat | oci-secrets audit show -"
            }
            AuditError::NotAsWritten { .. } => {
                "the system log has each line, too: journalctl -t oci-secrets-hook -o cat"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
