//! `oci-secrets read`: the secret of one reference.

use std::path::Path;
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::listed::secrets;
use super::out_file::OutFile;
use super::request::request;
use super::source::Choice;
use super::{load, write_output};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::resolve::ResolveError;

/// Print the secret that a reference names.
///
/// The value is fetched, unsealed, and printed with a newline. An empty one is an error. Grants are for containers: here 1Password and the
/// KMS decide. In a script, prefer `oci-secrets run`, which keeps the secret out of the shell.
#[derive(clap::Args)]
#[command(after_help = "\
Example: a password on standard input of a program

  oci-secrets read -n op://AgentVault/db/password | ./login --password-stdin")]
pub(super) struct Arguments {
    /// The reference.
    #[arg(value_name = "REFERENCE")]
    reference: Reference,
    /// Print no newline after the secret. A file never has one.
    #[arg(short, long)]
    no_newline: bool,
    #[command(flatten)]
    output: OutFile,
    #[command(flatten)]
    choice: Choice,
}

pub(super) fn run(arguments: &Arguments, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    if let Some(path) = arguments.output.path() {
        arguments.output.check(path)?;
    }
    let requests = [request(&arguments.reference)];
    let resolved = secrets(&requests, &arguments.choice.over(load(settings_path)?))?;
    let [request] = &requests;
    let secret = resolved.into_iter().next().ok_or_else(|| ResolveError::unanswered(request))?.secret;
    if let Some(path) = arguments.output.path() {
        arguments.output.write(path, &secret)?;
        return Ok(ExitCode::SUCCESS);
    }
    let newline: &[u8] = if arguments.no_newline { b"" } else { b"\n" };
    write_output(&Zeroizing::new([secret.expose(), newline].concat()))
}
