//! Private keys, from files or a terminal. They are never stored.

use std::io::{IsTerminal as _, Read as _, Write as _, stderr, stdin};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::input::read_file;
use crate::break_glass::BreakGlassError;
use crate::break_glass::file::{Ask, Identity, identities};
use crate::cli::PROGRAM;
use crate::cli::error::CliError;
use crate::fault::AnyFault;
use crate::report;

/// Reads standard input instead of a file.
const TYPED: &str = "-";
const IDENTITY_BYTES_MAX: usize = 1024 * 1024;
const READ_BY_OTHERS: u32 = 0o077;

/// The operator at the terminal.
#[derive(Clone, Copy)]
pub(super) struct Terminal;

impl Ask for Terminal {
    fn passphrase(&self, prompt: &str) -> Option<Zeroizing<String>> {
        rpassword::prompt_password(prompt).ok().map(Zeroizing::new)
    }

    fn line(&self, prompt: &str) -> Option<String> {
        ask(prompt)
    }

    fn show(&self, message: &str) {
        report::note(PROGRAM, message);
    }
}

/// Reads the keys of the operators. Without files, it prompts each operator for one.
pub(super) fn read(files: &[PathBuf], operators: usize) -> Result<Vec<Identity>, AnyFault> {
    let mut all = Vec::new();
    if files.is_empty() {
        for number in 1..=operators {
            all.extend(typed(number, operators)?);
        }
    }
    for file in files {
        if file == Path::new(TYPED) {
            all.extend(typed(1, 1)?);
            continue;
        }
        let bytes = read_file(file, IDENTITY_BYTES_MAX)?;
        let mode = std::fs::metadata(file).map(|metadata| metadata.mode()).unwrap_or_default();
        if mode & READ_BY_OTHERS != 0 {
            // Not an error: a FAT filesystem has no modes, and the outage is more urgent.
            report::note(PROGRAM, &format!("other users can read {}", file.display()));
        }
        let name = file.display().to_string();
        all.extend(identities(&bytes, &name, Terminal)?);
    }
    Ok(all)
}

/// A key from the terminal, without echo, or from standard input.
fn typed(number: usize, of: usize) -> Result<Vec<Identity>, AnyFault> {
    let input = |error: std::io::Error| CliError::Input { errno: error.into() };
    let mut bytes = Zeroizing::new(Vec::new());
    if stdin().is_terminal() {
        let which = if of > 1 { format!(" {number} of {of}") } else { String::new() };
        let line = rpassword::prompt_password(format!("Identity{which} (AGE-SECRET-KEY-1…): ")).map_err(input)?;
        bytes.extend_from_slice(Zeroizing::new(line).as_bytes());
    } else {
        stdin().take(IDENTITY_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(input)?;
    }
    identities(&bytes, "standard input", Terminal).map_err(|error| AnyFault::from(BreakGlassError::from(error)))
}

/// Prompts for a line on the terminal.
pub(super) fn ask(prompt: &str) -> Option<String> {
    if !stdin().is_terminal() {
        return None;
    }
    write!(stderr(), "{prompt}").ok()?;
    let mut line = String::new();
    stdin().read_line(&mut line).ok()?;
    Some(line.trim().to_owned())
}
