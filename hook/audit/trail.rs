//! The destination of records.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::append::append_line;
use super::chain::Chain;
use super::recorded::Recorded;
use super::{AuditError, default_file};
use crate::settings::{self, file};
use crate::syslog::{self, Severity};

/// The minimum timeout for the lock of a chain: the start may have failed because its deadline expired.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// The destination of records: the system log, and the file that the settings name. Without such a file, records that no system log
/// accepts go to the default file. A container starts only after one of them has accepted its record.
#[derive(Default)]
pub struct Trail {
    destination: Destination,
}

#[derive(Default)]
enum Destination {
    #[default]
    SystemLog,
    File {
        path: PathBuf,
        file: File,
    },
    Chain {
        chain: Chain,
        until: Instant,
    },
}

impl Trail {
    /// Opens the file, or creates it with mode 0600, so that a broken trail is detected before any secret is fetched.
    ///
    /// `deadline` applies from now on. A record waits for the lock of a chain until then.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(settings: &settings::Audit, deadline: Duration) -> Result<Trail, AuditError> {
        let destination = match settings.file.as_deref() {
            Some(path) if settings.chain => {
                Destination::Chain { chain: Chain::open(path)?, until: Instant::now() + deadline }
            }
            Some(path) => {
                let file = file::append(path).map_err(|source| AuditError::Open { source })?;
                Destination::File { path: path.to_owned(), file }
            }
            None if syslog::listener().is_some() => Destination::SystemLog,
            None => in_default_file()?,
        };
        Ok(Trail { destination })
    }

    /// Writes one record as one line.
    ///
    /// # Errors
    /// If no system log and no file accepts it. Then the container must not start.
    pub fn write(&mut self, record: &impl Recorded) -> Result<(), AuditError> {
        let line = record.line()?;
        let log = |line: &str, fields: &[_]| syslog::log(Severity::Info, record.program(), line, fields);
        if let Destination::SystemLog = self.destination {
            if syslog::record(record.program(), &line, &record.fields()).is_ok() {
                return Ok(());
            }
            self.destination = in_default_file()?;
        }
        match &mut self.destination {
            Destination::SystemLog => {}
            Destination::File { path, file } => {
                append_line(file, &line)
                    .map_err(|error| AuditError::Write { path: path.clone(), errno: error.into() })?;
                log(&line, &record.fields());
            }
            Destination::Chain { chain, until } => {
                let patience = until.saturating_duration_since(Instant::now()).max(PATIENCE_MIN);
                let lines = chain.append(record, patience)?;
                // A mark belongs to no start, so it has no fields of one.
                for (index, line) in lines.iter().enumerate() {
                    let fields = if index + 1 == lines.len() { record.fields() } else { Vec::new() };
                    log(line, &fields);
                }
            }
        }
        Ok(())
    }
}

fn in_default_file() -> Result<Destination, AuditError> {
    let (path, file) = default_file::open()?;
    Ok(Destination::File { path, file })
}
