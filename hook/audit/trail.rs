//! Where records go.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{AuditError, Record};
use crate::settings::file;
use crate::syslog::{self, Severity};

/// Where records go: the system log, and a file if the settings name one.
#[derive(Default)]
pub struct Trail {
    file: Option<(PathBuf, File)>,
}

impl Trail {
    /// Opens the file, or makes it with mode 0600. A trail that cannot be kept is found out before any secret is asked for.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: Option<&Path>) -> Result<Trail, AuditError> {
        let open = |path: &Path| file::append(path).map(|file| (path.to_owned(), file));
        Ok(Trail { file: path.map(open).transpose().map_err(|source| AuditError::Open { source })? })
    }

    /// Writes one record as one line, in one write, so that starts at the same time do not mix theirs.
    ///
    /// # Errors
    /// If the file does not take it: then the container must not start either.
    pub fn write(&mut self, program: &str, record: &Record) -> Result<(), AuditError> {
        let mut line = serde_json::to_string(record).map_err(|source| AuditError::Encode { source })?;
        syslog::log(Severity::Info, program, &line);
        line.push('\n');
        match &mut self.file {
            None => Ok(()),
            Some((path, file)) => file
                .write_all(line.as_bytes())
                .map_err(|error| AuditError::Write { path: path.clone(), errno: error.into() }),
        }
    }
}
