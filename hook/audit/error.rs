//! Why the audit trail cannot be written or read.

use std::path::PathBuf;
use std::time::Duration;

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::retry::Seconds;
use crate::settings::FileError;

/// Why the audit trail cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are the objects that the messages name")]
pub enum AuditError {
    /// The file that the settings name cannot be opened.
    #[error("cannot use the audit file")]
    Open { source: FileError },
    /// No system log accepts a record, and the default file cannot be opened.
    #[error("no system log accepts the audit record, and the default file cannot be used")]
    DefaultFile { source: FileError },
    /// No system log accepts a record, and the user has no home directory for the default file.
    #[error("no system log accepts the audit record, and /etc/passwd names no home directory of uid {uid}")]
    NoDefaultFile { uid: u32 },
    /// A record is larger than the trail allows.
    #[error("the audit record is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// The file cannot be written.
    #[error("cannot write to the audit file {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The file, or its last line, cannot be read.
    #[error("cannot read the audit file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Another process holds the lock of a chain.
    #[error("cannot write to the audit file {}: other processes held its lock for {}", path.display(), Seconds(*patience))]
    Busy { path: PathBuf, patience: Duration },
    /// There is no file to read.
    #[error("the settings name no audit file")]
    NoFile,
    /// A chain was modified; the lines were printed.
    #[error("{problems} {} in the audit trail", if *problems == 1 { "problem" } else { "problems" })]
    NotAsWritten { problems: usize },
    /// Our records and Connect's differ; the differences were printed.
    #[error("our records and the log of 1Password Connect differ in {differences} {}", if *differences == 1 { "place" } else { "places" })]
    Differ { differences: usize },
    /// The record is not JSON.
    #[error("cannot encode the audit record")]
    Encode { source: serde_json::Error },
}

impl Fault for AuditError {
    fn class(&self) -> Class {
        match self {
            AuditError::Open { source } | AuditError::DefaultFile { source } => source.class(),
            AuditError::Encode { .. } => Class::Bug,
            AuditError::Read { errno, .. } if errno.is_not_found() => Class::NotFound,
            AuditError::NoFile | AuditError::NoDefaultFile { .. } => Class::Settings,
            AuditError::TooLarge { .. } | AuditError::NotAsWritten { .. } | AuditError::Differ { .. } => Class::Data,
            AuditError::Write { .. } | AuditError::Read { .. } | AuditError::Busy { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            // A missing file is created, a missing directory is not.
            AuditError::Open { source: FileError::Open { path, errno } } if errno.is_not_found() => {
                let directory = path.parent().filter(|directory| !directory.exists())?;
                return Some(format!("install -d -m 0700 {}", directory.display()));
            }
            AuditError::Open { source } => return source.hint(),
            AuditError::DefaultFile { .. } | AuditError::NoDefaultFile { .. } => {
                "name a file under [audit] in the settings, or start a system log"
            }
            AuditError::TooLarge { .. } => "request fewer secrets, or shorter references, for one container",
            AuditError::Busy { .. } => "`lslocks` shows who holds it",
            AuditError::NoFile => {
                "name files, or - to read the system log: journalctl -t oci-secrets-hook -o cat | oci-secrets audit show -"
            }
            AuditError::NotAsWritten { .. } => {
                "the system log also has each line: journalctl -t oci-secrets-hook -o cat"
            }
            AuditError::Write { .. }
            | AuditError::Read { .. }
            | AuditError::Differ { .. }
            | AuditError::Encode { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
