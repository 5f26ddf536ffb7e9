//! Tests what the broker stores for an outage.

use crate::break_glass::time;
use crate::broker::source::sealed_files::SealedFiles;
use crate::cli::finding::Finding;
use crate::cli::is_root;
use crate::settings::Settings;

const SUBJECT: &str = "outage";

/// What is stored, and whether it is used. Only root can read it.
pub(super) fn finding(settings: &Settings) -> Option<Finding> {
    if !is_root() {
        return None;
    }
    let stored = match SealedFiles::new(&settings.outage.directory).list() {
        Ok(stored) => stored,
        Err(error) => return Some(Finding::problem(SUBJECT, &error)),
    };
    let oldest = stored.iter().map(|file| file.fetched).min();
    let ages = oldest.map(|oldest| format!(", the oldest fetched {}", time(&oldest))).unwrap_or_default();
    let detail = format!("sealed values stored: {}{ages}", stored.len());
    match settings.outage.sealed_values_for {
        Some(_) => Some(Finding::ok(SUBJECT, detail)),
        None if stored.is_empty() => None,
        None => {
            let advice = "they are not used: `oci-secrets cache clear`".to_owned();
            Some(Finding::warning(SUBJECT, detail, advice))
        }
    }
}
