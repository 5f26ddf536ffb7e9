//! `oci-secrets man`: the manual pages.

use std::path::PathBuf;
use std::process::ExitCode;

use super::error::CliError;
use crate::fault::AnyFault;

/// Write the manual pages: one for the command and one for each verb.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// Where to write them; it is made if it is missing.
    directory: PathBuf,
}

const EXAMPLE: &str = "\
Example: for every user

  sudo oci-secrets man /usr/local/share/man/man1";

pub(super) fn run(arguments: &Arguments, command: clap::Command) -> Result<ExitCode, AnyFault> {
    let directory = &arguments.directory;
    let written = std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| CliError::Pages { directory: directory.clone(), errno: error.into() })?;
    Ok(ExitCode::SUCCESS)
}
