//! `oci-secrets unseal`: a sealed value becomes the secret again, for an operator whose identity may use the KEK.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::error::CliError;
use super::{block_on, read_input, write_output};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::seal::kek::Keks;
use crate::seal::{SealError, SealedValue};
use crate::settings::Settings;

/// Unseal a sealed value from standard input, and print the secret.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The field that the value was sealed for.
    #[arg(long = "for", value_name = "REFERENCE")]
    reference: Reference,
}

const EXAMPLE: &str = "\
Example: look at a value as containers get it

  oci-secrets unseal --for op://AgentVault/db/password < password.sealed";

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let input = read_input()?;
    let reference = &arguments.reference;
    let unusable = |source| CliError::Unseal { reference: reference.clone(), source };
    let text = std::str::from_utf8(&input).map_err(|_| unusable(SealError::Plaintext))?;
    let sealed: SealedValue = text.parse().map_err(unusable)?;
    let unsealed = block_on(settings, async |deadline| {
        Ok(sealed.unseal(reference, &Keks::new(settings), deadline).await.map_err(unusable)?)
    })?;
    let mut output = Zeroizing::new(unsealed.secret.expose().to_vec());
    if stdout().is_terminal() {
        output.push(b'\n');
    }
    write_output(&output)
}
