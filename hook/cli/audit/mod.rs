//! `oci-secrets audit`: shows and verifies the audit trail.

mod files;
mod show;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use crate::fault::AnyFault;

/// Read the audit trail.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    Show(show::Arguments),
    Verify(verify::Arguments),
}

pub(super) fn run(verb: &Verb, settings: &Path) -> Result<ExitCode, AnyFault> {
    match verb {
        Verb::Show(arguments) => show::run(arguments, settings),
        Verb::Verify(arguments) => verify::run(arguments, settings),
    }
}
