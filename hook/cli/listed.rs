//! Variables that hold references, as the command line lists them, and their secrets.

use std::path::Path;

use super::nearest::with_nearest;
use super::{block_on, source};
use crate::container::Request;
use crate::envrc::{self, ENVRC, Variable};
use crate::fault::AnyFault;
use crate::resolve::{Resolved, resolve};
use crate::seal::kek::Keks;
use crate::settings::Settings;

/// The variables of all that is listed, files and `NAME=op://…`; of `.envrc` if nothing is. Arguments are not left to clap, which would
/// quote a secret in the wrong place.
pub(super) fn variables(listed: &[String]) -> Result<Vec<Variable>, AnyFault> {
    let mut found = Vec::new();
    for text in listed {
        match is_variable(text) {
            true => found.push(envrc::argument(text)?),
            false => found.extend(envrc::read(Path::new(text))?),
        }
    }
    if listed.is_empty() {
        found = envrc::read(Path::new(ENVRC))?;
    }
    envrc::unite(found).map_err(AnyFault::from)
}

/// Whether an argument is a variable and not a file. A file with `=` in its name needs a path: `./a=b`.
fn is_variable(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| !name.contains('/'))
}

/// What is to be fetched for these variables, in their order.
pub(super) fn requests(variables: &[Variable]) -> Vec<Request> {
    let request = |variable: &Variable| Request {
        file: variable.file.clone(),
        reference: variable.reference.clone(),
        optional: false,
    };
    variables.iter().map(request).collect()
}

/// The secret of each request, in their order, all fetched at once. Grants are for containers: here 1Password and the KMS decide.
pub(super) fn secrets<'a>(requests: &'a [Request], settings: &Settings) -> Result<Vec<Resolved<'a>>, AnyFault> {
    let source = source(settings)?;
    let mut secrets = block_on(settings, async |deadline| {
        let keks = Keks::new(settings);
        match resolve(requests, &*source, &keks, settings.deliver.plaintext, deadline).await {
            Ok(secrets) => Ok(secrets),
            Err(error) => Err(with_nearest(error, &*source, deadline).await),
        }
    })?;
    secrets.sort_by_key(|secret| requests.iter().position(|request| request == secret.request));
    Ok(secrets)
}
