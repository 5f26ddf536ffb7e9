//! Where records go.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::chain::Chain;
use super::tail::is_whole;
use super::{AuditError, Record};
use crate::settings::{self, file};
use crate::syslog::{self, Severity};

/// How long a record waits for the file's lock at least: the deadline is what may have ended the start that it is of.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// Where records go: the system log, and a file if the settings name one.
#[derive(Default)]
pub struct Trail {
    file: Option<Destination>,
}

enum Destination {
    Plain { path: PathBuf, file: File },
    Chained { chain: Chain, until: Instant },
}

impl Trail {
    /// Opens the file, or makes it with mode 0600. A trail that cannot be kept is found out before any secret is asked for.
    ///
    /// `deadline` is for everything from now on; what is left of it is how long a record may wait for the lock of a chain.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(settings: &settings::Audit, deadline: Duration) -> Result<Trail, AuditError> {
        let Some(path) = settings.file.as_deref() else {
            return Ok(Trail::default());
        };
        let destination = if settings.chain {
            Destination::Chained { chain: Chain::open(path)?, until: Instant::now() + deadline }
        } else {
            let file = file::append(path).map_err(|source| AuditError::Open { source })?;
            Destination::Plain { path: path.to_owned(), file }
        };
        Ok(Trail { file: Some(destination) })
    }

    /// Writes one record as one line, in one write, so that starts at the same time do not mix theirs. What a write that was cut off
    /// has left stays a line of its own. Without a chain nobody holds a lock: where another write is just going on, an empty line may
    /// come between.
    ///
    /// # Errors
    /// If the file does not take it: then the container must not start either, and the system log has not been told either way.
    pub fn write(&mut self, program: &str, record: &Record) -> Result<(), AuditError> {
        let line = || serde_json::to_string(record).map_err(|source| AuditError::Encode { source });
        let lines = match &mut self.file {
            None => vec![line()?],
            Some(Destination::Plain { path, file }) => {
                let line = line()?;
                let written = is_whole(file).and_then(|is_whole| {
                    let before = if is_whole { "" } else { "\n" };
                    file.write_all(format!("{before}{line}\n").as_bytes())
                });
                written.map_err(|error| AuditError::Write { path: path.clone(), errno: error.into() })?;
                vec![line]
            }
            Some(Destination::Chained { chain, until }) => {
                chain.append(record, until.saturating_duration_since(Instant::now()).max(PATIENCE_MIN))?
            }
        };
        // A mark is not of this start, so that nobody shall find it by the start's fields.
        let fields = record.fields();
        for (at, line) in lines.iter().enumerate() {
            let fields = if at + 1 == lines.len() { fields.as_slice() } else { &[] };
            syslog::log(Severity::Info, program, line, fields);
        }
        Ok(())
    }
}
