//! Standard input and output.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde::Serialize;
use zeroize::Zeroizing;

use super::error::CliError;
use super::table::Table;
use crate::fault::AnyFault;

/// The name of the command in messages.
pub const PROGRAM: &str = "oci-secrets";

/// The most that is read from standard input: a secret or a sealed value is far smaller.
const INPUT_BYTES_MAX: u64 = 1024 * 1024;

/// The whole of standard input.
pub(super) fn read_input() -> Result<Zeroizing<Vec<u8>>, AnyFault> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::Input { errno: error.into() })?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(CliError::LongInput { limit: INPUT_BYTES_MAX }.into());
    }
    Ok(bytes)
}

/// Writes a table for people. Colours are written to terminals only, and not with `NO_COLOR` in the environment.
pub(super) fn write_table(table: &Table) -> Result<ExitCode, AnyFault> {
    let mut output = anstream::AutoStream::auto(io::stdout().lock());
    let written = output.write_all(table.as_str().as_bytes()).and_then(|()| output.flush());
    written.map_err(|error| CliError::Output { errno: error.into() })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes output for programs.
pub(super) fn write_json(value: &impl Serialize) -> Result<ExitCode, AnyFault> {
    let mut text = serde_json::to_string_pretty(value).map_err(|source| CliError::Json { source })?;
    text.push('\n');
    write_output(text.as_bytes())
}

pub(super) fn write_output(bytes: &[u8]) -> Result<ExitCode, AnyFault> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| CliError::Output { errno: error.into() })?;
    Ok(ExitCode::SUCCESS)
}
