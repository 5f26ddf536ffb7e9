//! The references to seal: those in a file, and those in 1Password that match the patterns of grants.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::input::read_file;
use crate::break_glass::BreakGlassError;
use crate::cli::PROGRAM;
use crate::cli::error::CliError;
use crate::fault::{AnyFault, Class, Fault as _};
use crate::reference::Reference;
use crate::report;
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::seal::{SealError, SealedValue, is_sealed};
use crate::settings::{Grant, Pattern, Settings};
use crate::source::connect::Connect;
use crate::source::connect::edit::StoredField;

/// The size limit of a reference file.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// The references of a file, one on each line. Empty lines and those that begin with `#` are ignored.
pub(super) fn of_file(path: &Path) -> Result<BTreeSet<Reference>, BreakGlassError> {
    let bytes = read_file(path, FILE_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(at, line)| {
            line.parse().map_err(|source| {
                let file = PathBuf::from(path).display().to_string();
                BreakGlassError::References { file, line: at + 1, source }
            })
        })
        .collect()
}

/// The references of grants: patterns without `*`, and, for every sealed field that a pattern matches, the spelling that unseals it.
/// A field that no spelling unseals is reported and left out: no container gets it either.
pub(super) async fn of_grants(
    names: &[String],
    settings: &Settings,
    connect: &Connect,
    keks: &Keks<'_>,
) -> Result<BTreeSet<Reference>, AnyFault> {
    let grant = |name: &String| {
        settings.grants.named(name).ok_or_else(|| AnyFault::from(BreakGlassError::NoGrant { name: name.clone() }))
    };
    let grants = names.iter().map(grant).collect::<Result<Vec<&Grant>, AnyFault>>()?;
    let patterns: Vec<&Pattern> = grants.into_iter().flat_map(Grant::references).collect();
    // A pattern without `*` is a reference.
    let mut references: BTreeSet<Reference> =
        patterns.iter().filter_map(|pattern| pattern.as_str().parse().ok()).collect();
    references.retain(|reference| !reference.as_str().split('/').any(|segment| segment == "*"));
    let open: Vec<&Pattern> = patterns.into_iter().filter(|pattern| pattern.as_str().contains('*')).collect();
    if open.is_empty() {
        return Ok(references);
    }
    let patience = settings.deliver.deadline;
    for vault in connect.vaults(Deadline::after(patience)).await? {
        for name in [&vault.name, &vault.id] {
            // A vault is read only if a pattern can match in it.
            let matches = |pattern: &&Pattern| {
                pattern.as_str().split('/').nth(2).is_some_and(|segment| segment == "*" || segment == name)
            };
            let patterns: Vec<&Pattern> = open.iter().copied().filter(matches).collect();
            if patterns.is_empty() || name.is_empty() {
                continue;
            }
            let fields = connect.fields_of(&vault.id, is_sealed, patience).await?;
            for field in fields {
                references.extend(spelling(&field, &vault.id, name, &patterns, keks, patience).await?);
            }
        }
    }
    Ok(references)
}

/// The spelling of a field, with this name of the vault, that a pattern matches and that unseals the stored value.
async fn spelling(
    field: &StoredField,
    vault_id: &str,
    vault: &str,
    patterns: &[&Pattern],
    keks: &Keks<'_>,
    patience: std::time::Duration,
) -> Result<Option<Reference>, AnyFault> {
    let (from, to) = (format!("op://{vault_id}/"), format!("op://{vault}/"));
    let spelled = |reference: &Reference| reference.as_str().replacen(&from, &to, 1).parse::<Reference>().ok();
    let spellings: BTreeSet<Reference> = field.spellings.iter().filter_map(spelled).collect();
    let mut failure = None;
    for reference in spellings {
        if !patterns.iter().any(|pattern| pattern.matches(reference.as_str())) {
            continue;
        }
        let deadline = Deadline::after(patience);
        let opened = async { field.value.parse::<SealedValue>()?.unseal(&reference, keks, deadline).await };
        match opened.await {
            Ok(_) => return Ok(Some(reference)),
            Err(SealError::Envelope { source }) => failure = failure.or(Some(SealError::Envelope { source })),
            Err(source) => {
                let error = CliError::Stored { name: field.name.clone(), source };
                if error.class() == Class::Unavailable {
                    return Err(error.into());
                }
                report::note(PROGRAM, &format!("left out: {}", report::chain(&error)));
                return Ok(None);
            }
        }
    }
    if let Some(source) = failure {
        let error = CliError::Stored { name: field.name.clone(), source };
        report::note(PROGRAM, &format!("left out: {}", report::chain(&error)));
    }
    Ok(None)
}
