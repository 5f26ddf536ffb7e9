//! `oci-secrets seal`: a secret becomes the line of text that 1Password stores.

use std::io::{IsTerminal, stdin};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::error::CliError;
use super::{PROGRAM, block_on, read_input, write_json, write_output};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::report;
use crate::seal::SealedValue;
use crate::seal::kek::{KekUri, Keks};
use crate::secret::Secret;
use crate::settings::Settings;
use crate::source::connect::Connect;
use crate::source::connect::edit::Stored;

/// Seal a secret for one field, and print the line to store there.
///
/// The secret is read from standard input, every byte of it, or asked for without echo if that is a terminal. The line opens only
/// for containers that ask for the field by this very reference.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The key-encryption key, as the settings list it.
    #[arg(long, value_name = "URI")]
    kek: KekUri,
    /// The field, spelled as containers will ask for it.
    #[arg(long = "for", value_name = "REFERENCE")]
    reference: Reference,
    /// Store the line there too, through 1Password Connect; item and field are made where there is none.
    #[arg(long)]
    write: bool,
    /// Print JSON: an object with `reference`, `kek` and `sealed`, the line.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example: seal a password that is asked for without echo, and store it

  oci-secrets seal --kek \"$KEK\" --for op://AgentVault/db/password --write";

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let secret = if stdin().is_terminal() { ask(&arguments.reference)? } else { read_input()? };
    if secret.is_empty() {
        return Err(CliError::EmptySecret.into());
    }
    if is_line(&secret) {
        report::note(PROGRAM, "the secret ends with a newline, which becomes a part of it; `printf %s` writes none");
    }
    let secret = Secret::new(secret.to_vec());
    let sealed = block_on(settings, async |deadline| {
        let keks = Keks::new(settings);
        let sealed = SealedValue::seal(&secret, arguments.kek.clone(), &arguments.reference, &keks, deadline).await;
        Ok(sealed.map_err(|source| CliError::Seal { reference: arguments.reference.clone(), source })?)
    })?;
    let line = sealed.to_string();
    if arguments.write {
        store(&arguments.reference, &line, settings)?;
    }
    if arguments.json {
        let (reference, kek) = (arguments.reference.to_string(), arguments.kek.to_string());
        return write_json(&serde_json::json!({ "reference": reference, "kek": kek, "sealed": line }));
    }
    write_output(format!("{line}\n").as_bytes())
}

/// Stores the line, and prints what was created.
fn store(reference: &Reference, line: &str, settings: &Settings) -> Result<(), AnyFault> {
    let connect = Connect::of(settings)?;
    let stored =
        block_on(settings, async |deadline| connect.store(reference, line, deadline).await.map_err(AnyFault::from))?;
    let what = match stored {
        Stored::NewItem => "a new item",
        Stored::NewField => "a new field",
        Stored::Replaced => "the field, whose value is replaced",
    };
    report::note(PROGRAM, &format!("stored in {what}: {reference}"));
    Ok(())
}

fn ask(reference: &Reference) -> Result<Zeroizing<Vec<u8>>, AnyFault> {
    let typed = rpassword::prompt_password(format!("Secret for {reference}: "))
        .map_err(|error| CliError::Input { errno: error.into() })?;
    let repeated = rpassword::prompt_password("Once more: ")
        .map(Zeroizing::new)
        .map_err(|error| CliError::Input { errno: error.into() })?;
    let typed = Zeroizing::new(typed.into_bytes());
    if *typed != repeated.as_bytes() {
        return Err(CliError::TypedTwice.into());
    }
    Ok(typed)
}

/// Whether the secret is one line with its end: what `echo` writes, and seldom what is meant.
fn is_line(secret: &[u8]) -> bool {
    secret.iter().position(|byte| *byte == b'\n') == Some(secret.len() - 1)
}
