//! `oci-secrets seal`: a secret becomes the line of text that 1Password stores.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, IsTerminal, Write as _, stderr, stdin};
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
/// for containers that request the field by exactly this reference.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The key-encryption key, as the settings list it.
    #[arg(long, value_name = "URI")]
    kek: KekUri,
    /// The field, spelled as containers will ask for it.
    #[arg(long = "for", value_name = "REFERENCE")]
    reference: Reference,
    /// Remove a newline from the end of the secret: files and `echo` end with one.
    #[arg(long)]
    trim: bool,
    /// Store the line there too, through 1Password Connect; item and field are made where there is none.
    #[arg(long)]
    write: bool,
    /// Replace a value that the field already has. Without it, a terminal asks, and a script fails.
    #[arg(long, requires = "write")]
    overwrite: bool,
    /// Print JSON: an object with `reference`, `kek` and `sealed`, the line.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example: seal a password that is asked for without echo, and store it

  oci-secrets seal --kek \"$KEK\" --for op://AgentVault/db/password --write";

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    if arguments.write && !arguments.overwrite {
        require_no_value(&arguments.reference, settings)?;
    }
    let mut secret = if stdin().is_terminal() { ask(&arguments.reference)? } else { read_input()? };
    if arguments.trim {
        trim(&mut secret);
    }
    if secret.is_empty() {
        return Err(CliError::EmptySecret.into());
    }
    if is_line(&secret) {
        report::note(PROGRAM, "the secret ends with a newline, which becomes a part of it; `--trim` removes it");
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

/// Refuses to replace a value that is stored already, unless the person at the terminal agrees.
fn require_no_value(reference: &Reference, settings: &Settings) -> Result<(), AnyFault> {
    let connect = Connect::of(settings)?;
    let has_value = block_on(settings, async |deadline| Ok(connect.has_value(reference, deadline).await?))?;
    let question = format!("{reference} has a value. Replace it? [y/N] ");
    if has_value && !agrees(&question) {
        return Err(CliError::HasValue { reference: reference.clone() }.into());
    }
    Ok(())
}

/// Asks at the terminal, even if the secret comes from a file; without a terminal, the answer is no.
fn agrees(question: &str) -> bool {
    if !stderr().is_terminal() {
        return false;
    }
    let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else { return false };
    let mut answer = String::new();
    let asked = terminal.write_all(question.as_bytes()).and_then(|()| BufReader::new(terminal).read_line(&mut answer));
    asked.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
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

/// Removes one newline from the end, with the carriage return before it.
fn trim(secret: &mut Zeroizing<Vec<u8>>) {
    if secret.pop_if(|byte| *byte == b'\n').is_some() {
        secret.pop_if(|byte| *byte == b'\r');
    }
}

/// Whether the secret is one line with its end: what `echo` writes, and seldom the secret.
fn is_line(secret: &[u8]) -> bool {
    secret.iter().position(|byte| *byte == b'\n') == Some(secret.len() - 1)
}
