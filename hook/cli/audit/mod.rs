//! `oci-secrets audit`: what the audit trail says, and whether it is as it was written.

mod show;
mod verify;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::load;
use crate::audit::AuditError;
use crate::cli::error::CliError;
use crate::fault::AnyFault;

/// Standard input, in the place of a file.
const STDIN: &str = "-";

/// Read the audit trail.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    Show(show::Arguments),
    Verify(verify::Arguments),
}

/// The files to read.
#[derive(clap::Args)]
struct Files {
    /// The files, the oldest first, or - for standard input; without any, the one of the settings.
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
}

pub(super) fn run(verb: &Verb, settings: &Path) -> Result<ExitCode, AnyFault> {
    match verb {
        Verb::Show(arguments) => show::run(arguments, settings),
        Verb::Verify(arguments) => verify::run(arguments, settings),
    }
}

impl Files {
    fn paths(&self, settings: &Path) -> Result<Vec<PathBuf>, AnyFault> {
        if !self.paths.is_empty() {
            return Ok(self.paths.clone());
        }
        let file = load(settings)?.audit.file.ok_or(AnyFault::from(AuditError::NoFile))?;
        Ok(vec![file.to_path_buf()])
    }
}

/// The whole of a file. It is locked meanwhile, so that no line is seen in the making.
fn read(path: &Path) -> Result<Vec<u8>, AnyFault> {
    let cannot_read =
        |error: io::Error| AnyFault::from(AuditError::Read { path: path.to_owned(), errno: error.into() });
    let mut bytes = Vec::new();
    if path == Path::new(STDIN) {
        io::stdin().read_to_end(&mut bytes).map_err(|error| CliError::Input { errno: error.into() })?;
        return Ok(bytes);
    }
    let mut file = File::open(path).map_err(cannot_read)?;
    file.lock_shared().map_err(cannot_read)?;
    file.read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(bytes)
}

/// Text from a file, on one line of a terminal.
fn plain(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line
}
