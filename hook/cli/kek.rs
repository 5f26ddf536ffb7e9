//! `oci-secrets kek`: key-encryption keys.

use std::process::ExitCode;

use super::write_output;
use crate::error::Error;
use crate::seal::kek::local::LocalKeks;
use crate::seal::kek::{KekError, KekUri, Kind};
use crate::settings::Settings;

/// Make key-encryption keys.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Make a new key, and print its URI.
    ///
    /// Only `local-kek:<name>` for now: a key file on this host, for trials and tests. Keys in Cloud KMS are made with `gcloud kms keys create`.
    New {
        /// The new key's URI.
        #[arg(value_name = "URI")]
        kek: KekUri,
    },
}

pub(super) fn run(verb: &Verb, settings: &Settings) -> Result<ExitCode, Error> {
    let Verb::New { kek } = verb;
    if kek.kind() != Kind::Local {
        return Err(Error::ForeignKek { kek: kek.clone() });
    }
    let created = LocalKeks::new(&settings.local_kek.directory).create(kek.name());
    created.map_err(|source| Error::Kek(KekError::Local(source)))?;
    write_output(format!("{kek}\n").as_bytes())
}
