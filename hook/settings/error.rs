//! Why there are no settings, and where settings are documented.

use std::path::PathBuf;

use super::FileError;
use super::parse::ParseError;
use crate::fault::{Class, Fault};

/// Where a settings file is documented: hints that end an error about it.
#[derive(Debug)]
pub struct Documents {
    /// For a file that cannot be read.
    pub example: &'static str,
    /// For a file that is not valid.
    pub keys: &'static str,
}

const DOCUMENTS: Documents = Documents {
    example: "create it: /etc/oci-secrets/settings.reference.toml explains every key",
    keys: "/etc/oci-secrets/settings.reference.toml explains every key",
};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SettingsError {
    /// The file cannot be read or trusted.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not text.
    #[error("cannot parse {}: it is not UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    /// The file is not TOML, or has invalid settings.
    #[error("cannot parse {}", path.display())]
    Invalid { path: PathBuf, source: ParseError },
    /// Two files have a grant or a set of requests of the same name.
    #[error("cannot use {}: {what} is in another settings file, too", path.display())]
    Twice { path: PathBuf, what: String },
    /// A token comes from the environment of a CI job, which a hook does not have.
    #[error("refusing to use {}: [{table}] takes its token from the environment of a job, and here is none", path.display())]
    NoJob { path: PathBuf, table: &'static str },
}

impl Fault for SettingsError {
    fn class(&self) -> Class {
        match self {
            SettingsError::File(error) => error.class(),
            SettingsError::NotUtf8 { .. }
            | SettingsError::Invalid { .. }
            | SettingsError::Twice { .. }
            | SettingsError::NoJob { .. } => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        self.hint_with(&DOCUMENTS)
    }
}

impl SettingsError {
    /// The hint, with the documents of the program whose settings they are.
    pub fn hint_with(&self, documents: &Documents) -> Option<String> {
        let hint = match self {
            SettingsError::File(error) => return error.hint().or_else(|| Some(documents.example.to_owned())),
            SettingsError::NotUtf8 { .. } | SettingsError::Invalid { .. } => documents.keys,
            SettingsError::Twice { .. } => "rename one of them",
            SettingsError::NoJob { .. } => {
                "name a file on a tmpfs, token = { file = … }, and let the job's step write it: `oci-secrets token --help`"
            }
        };
        Some(hint.to_owned())
    }
}
