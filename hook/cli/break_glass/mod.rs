//! `oci-secrets break-glass`: for an outage of 1Password or the KMS. One file per verb.

mod close;
mod drill;
mod duration;
mod emergency;
mod expand;
mod expire;
mod identity;
mod input;
mod inspect;
mod open;
mod rotation;
mod seal;
mod sealed_file;
mod status;

use std::path::Path;
use std::process::ExitCode;

pub(super) use self::sealed_file::{admit, read};
use super::{is_root, load};
use crate::break_glass::BreakGlassError;
use crate::fault::AnyFault;
use crate::harden;

const EXAMPLE_EXPIRE: &str = "\
Example: the process that `open` starts

  oci-secrets break-glass expire </dev/null";

/// Start containers while 1Password or the KMS does not answer.
///
/// Before an outage, `seal` writes secrets to a file, and `drill` tests it. In an outage, `open` allows the hook to use them for a
/// limited time. Each secret that a container got in this way must be rotated afterwards: `status` lists them.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    Seal(seal::Arguments),
    Inspect(inspect::Arguments),
    Drill(drill::Arguments),
    Open(open::Arguments),
    Status(status::Arguments),
    Close(close::Arguments),
    #[command(subcommand)]
    Rotation(rotation::Verb),
    /// Wait for the end of the emergency, and remove its store. `open` starts it.
    #[command(hide = true, after_help = EXAMPLE_EXPIRE)]
    Expire,
}

pub(super) fn run(verb: &Verb, settings: &Path) -> Result<ExitCode, AnyFault> {
    // Secrets and keys in memory are not swapped to a disk.
    harden::lock_memory();
    if !matches!(verb, Verb::Seal(_) | Verb::Inspect(_)) && !is_root() {
        return Err(AnyFault::from(BreakGlassError::NotRoot));
    }
    match verb {
        Verb::Seal(arguments) => seal::run(arguments, &load(settings)?),
        Verb::Inspect(arguments) => inspect::run(arguments),
        Verb::Drill(arguments) => drill::run(arguments, &load(settings)?),
        Verb::Open(arguments) => open::run(arguments, &load(settings)?, settings),
        Verb::Status(arguments) => status::run(arguments, &load(settings)?),
        Verb::Close(arguments) => close::run(arguments, &load(settings)?),
        Verb::Rotation(verb) => rotation::run(verb, &load(settings)?),
        Verb::Expire => expire::run(&load(settings)?),
    }
}
