//! `oci-secrets man`: the manual pages of all programs and of their settings.
//!
//! Each page is made from the text that its program prints or its file contains, so that they agree.

mod program;
mod settings;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::error::CliError;
use crate::fault::AnyFault;

/// A program, and what its `--help` prints.
pub type Help = (&'static str, &'static str);

/// Write the manual pages of all programs and of their settings.
///
/// Those of the command and its verbs are in section 1, those of settings files in section 5, those of the other programs in section 8.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// Where to write them; it is created if it is missing.
    directory: PathBuf,
}

const EXAMPLE: &str = "\
Example: for every user

  oci-secrets man pages
  for n in 1 5 8; do sudo install -D -m 0644 -t /usr/local/share/man/man$n pages/*.$n; done";

pub(super) fn run(arguments: &Arguments, command: clap::Command, others: &[Help]) -> Result<ExitCode, AnyFault> {
    let directory = &arguments.directory;
    let written = write(directory, command, others);
    written.map_err(|error| CliError::Pages { directory: directory.clone(), errno: error.into() })?;
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &Path, command: clap::Command, others: &[Help]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)?;
    for (name, help) in others {
        fs::write(directory.join(format!("{name}.8")), program::page(name, help))?;
    }
    for file in settings::FILES {
        fs::write(directory.join(format!("{}.5", file.name)), file.page())?;
    }
    Ok(())
}
