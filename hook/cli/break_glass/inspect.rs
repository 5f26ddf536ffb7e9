//! `oci-secrets break-glass inspect`: shows the header of a sealed file.

use std::path::PathBuf;
use std::process::ExitCode;

use super::sealed_file::{describe, read};
use crate::cli::write_output;
use crate::fault::AnyFault;

const EXAMPLE: &str = "\
Example: the content of a file, and when it expires

  oci-secrets break-glass inspect agents.sealed";

/// Show what is in a sealed file, without a key and without values.
///
/// Until the file is opened, what is shown is not verified. Its sha256 identifies it.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// The sealed file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, AnyFault> {
    let file = read(&arguments.file)?;
    if !arguments.json {
        return write_output(describe(&file).as_bytes());
    }
    let json = serde_json::json!({ "sha256": file.digest(), "header": file.header });
    write_output(format!("{json:#}\n").as_bytes())
}
