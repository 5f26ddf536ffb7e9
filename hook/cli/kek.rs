//! `oci-secrets kek`: key-encryption keys.

use std::process::ExitCode;

use super::error::CliError;
use super::{PROGRAM, block_on, write_json, write_output};
use crate::fault::AnyFault;
use crate::report;
use crate::seal::kek::{KekUri, Keks};
use crate::settings::Settings;

/// Make key-encryption keys.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Make a new key, and print its URI.
    ///
    /// `pkcs11:token=<label>;object=<label>` makes an AES key that never leaves the HSM; `local-kek:<name>` a key file on this host, for
    /// trials and tests. Keys in a cloud are made with its own tools: `gcloud kms keys create`, `aws kms create-key`.
    #[command(after_help = EXAMPLE)]
    New {
        /// The new key's URI.
        #[arg(value_name = "URI")]
        kek: KekUri,
        /// Print JSON: an object with `kek`.
        #[arg(long)]
        json: bool,
    },
}

const EXAMPLE: &str = "\
Example: a key file for a first trial, which `keks` in the settings must list

  sudo oci-secrets kek new local-kek:trial";

pub(super) fn run(verb: &Verb, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let Verb::New { kek, json } = verb;
    block_on(settings, async |deadline| {
        let created = Keks::new(settings).create(kek, deadline).await;
        Ok(created.map_err(|source| CliError::MakeKek { source })?)
    })?;
    if !settings.kek_is_listed(kek.as_str()) {
        report::note(PROGRAM, &format!("`keks` in the settings do not list {kek}: add it there before it can be used"));
    }
    if *json {
        return write_json(&serde_json::json!({ "kek": kek.to_string() }));
    }
    write_output(format!("{kek}\n").as_bytes())
}
