//! The variables that files and arguments list, and their secrets.

use std::path::Path;

use super::nearest::with_nearest;
use super::{block_on, source};
use crate::container::Request;
use crate::envrc::{self, ENVRC, EnvrcError, Variable};
use crate::fault::AnyFault;
use crate::resolve::{Resolved, resolve};
use crate::seal::kek::Keks;
use crate::settings::Settings;

/// The option to permit names that [`envrc::check_names`] refuses.
#[derive(clap::Args)]
pub(super) struct AllowedNames {
    /// Permit a variable that controls other programs, such as PATH; may be repeated.
    #[arg(long = "allow-name", value_name = "NAME")]
    names: Vec<String>,
}

impl AllowedNames {
    pub(super) fn check(&self, variables: &[Variable]) -> Result<(), EnvrcError> {
        envrc::check_names(variables, &self.names)
    }
}

/// The variables of the listed files and `NAME=op://…` arguments; of `.envrc` if none is listed. clap does not parse the arguments: it
/// would quote a secret in the wrong place.
pub(super) fn variables(listed: &[String]) -> Result<Vec<Variable>, EnvrcError> {
    let mut found = Vec::new();
    for text in listed_or_default(listed) {
        match is_variable(text) {
            true => found.push(envrc::argument(text)?),
            false => found.extend(envrc::read(Path::new(text))?.variables),
        }
    }
    envrc::unite(found)
}

/// The listed files and arguments, or the default file.
pub(super) fn listed_or_default(listed: &[String]) -> Vec<&str> {
    if listed.is_empty() { vec![ENVRC] } else { listed.iter().map(String::as_str).collect() }
}

/// Whether an argument is a variable and not a file. A file with `=` in its name needs a path: `./a=b`.
fn is_variable(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| !name.contains('/'))
}

/// The request of each variable, in their order.
pub(super) fn requests(variables: &[Variable]) -> Vec<Request> {
    let request = |variable: &Variable| Request {
        file: variable.file.clone(),
        reference: variable.reference.clone(),
        optional: false,
    };
    variables.iter().map(request).collect()
}

/// Fetches and unseals the secret of each request, in their order. Grants are for containers: here 1Password and the KMS decide.
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

/// The first names, and the number of the others.
pub(super) fn summary(names: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN_MAX: usize = 5;
    let more = names.len().saturating_sub(SHOWN_MAX);
    let shown = names.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
