//! The files of an audit trail.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::audit::{AuditError, default_file};
use crate::cli::error::CliError;
use crate::cli::load;
use crate::fault::AnyFault;

/// Standard input instead of a file.
const STDIN: &str = "-";

/// The prefix of the names of our programs.
const PREFIX: &str = "oci-secrets-";

/// The files to read.
#[derive(clap::Args)]
pub(super) struct Files {
    /// The files, the oldest first, or - for standard input; by default the file of the settings, or the default file, after the file
    /// that logrotate renamed last, with .1 at its end.
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
}

impl Files {
    pub(super) fn paths(&self, settings: &Path) -> Result<Vec<PathBuf>, AnyFault> {
        if !self.paths.is_empty() {
            return Ok(self.paths.clone());
        }
        let file = load(settings)?.audit.file.map(|file| file.to_path_buf());
        let file = file.or_else(|| default_file().ok().filter(|path| path.exists()));
        let file = file.ok_or(AuditError::NoFile)?;
        Ok([rotated(&file)].into_iter().filter(|path| path.exists()).chain([file.clone()]).collect())
    }
}

/// The name that logrotate gives to a file first: without it, the records of yesterday would be missing today.
fn rotated(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Reads a whole file under its lock, so that no partial line is read. If syslog wrote the file, only the records are returned.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, AnyFault> {
    let cannot_read =
        |error: io::Error| AnyFault::from(AuditError::Read { path: path.to_owned(), errno: error.into() });
    let mut bytes = Vec::new();
    if path == Path::new(STDIN) {
        io::stdin().read_to_end(&mut bytes).map_err(|error| CliError::Input { errno: error.into() })?;
        return Ok(without_syslog(bytes));
    }
    let mut file = File::open(path).map_err(cannot_read)?;
    file.lock_shared().map_err(cannot_read)?;
    file.read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(without_syslog(bytes))
}

/// The records in the lines of a syslog, or of `journalctl` without `-o cat`, which begin with `… oci-secrets-hook[123]: `. Lines of
/// other programs are skipped. A file that contains records without such a prefix is returned unchanged.
fn without_syslog(bytes: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes);
    let record = |line: &str| {
        let (prefix, record) = line.split_once("]: ")?;
        let is_ours = prefix.contains(PREFIX) && !prefix.contains('{') && record.starts_with('{');
        is_ours.then(|| format!("{}\n", record.trim_end_matches('\r')))
    };
    let records: String = text.lines().filter_map(record).collect();
    if records.is_empty() || text.lines().any(|line| line.starts_with('{')) { bytes } else { records.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_the_prefix_of_syslog_from_records() {
        let read = |text: &str| String::from_utf8(without_syslog(text.into())).unwrap();
        for prefix in ["<86>oci-secrets-hook[7]: ", "Nov 26 10:00:00 host oci-secrets-hook[7]: "] {
            let log = format!(
                "Nov 26 10:00:00 host sshd[8]: [x]: {{\n{prefix}{{\"a\":1}}\n{prefix}error: no\n{prefix}{{}}\n"
            );
            assert_eq!(read(&log), "{\"a\":1}\n{}\n");
        }
        for unchanged in
            ["", "{\"a\":1}\n<86>oci-secrets-hook[7]: {}\n", "torn\n", "{\"a\":\"oci-secrets-hook[7]: {\"}"]
        {
            assert_eq!(read(unchanged), unchanged);
        }
    }
}
