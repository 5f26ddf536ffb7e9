//! After an emergency: each secret that it used must be rotated.

use jiff::Timestamp;

use super::BreakGlassError;
use super::channel::Event;
use super::ledger::{Hasher, Ledger};
use super::session::Session;
use crate::reference::Reference;
use crate::resolve::Resolved;
use crate::settings::{Overdue, Settings};

/// The result of comparing the secrets of a normal start with the ledger.
#[derive(Debug, Default)]
pub struct Findings {
    /// Secrets that were rotated, and are no longer in the ledger.
    pub rotated: Vec<String>,
    /// Secrets that must still be rotated, and until when.
    pub pending: Vec<(String, Timestamp)>,
    /// Why rotated secrets are still in the ledger: the channel did not accept the record.
    pub unrecorded: Option<BreakGlassError>,
}

/// Compares resolved secrets with the ledger. Rotated ones are removed; for the others the grace period begins. `then` is the action
/// when it is over.
///
/// # Errors
/// If a rotation is overdue and `then` refuses that, or the ledger cannot be read.
pub async fn check(resolved: &[Resolved<'_>], then: Overdue, settings: &Settings) -> Result<Findings, BreakGlassError> {
    let ledger = Ledger::read(&settings.break_glass.directory)?;
    if !resolved.iter().any(|one| ledger.pending.contains_key(one.request.reference.as_str())) {
        return Ok(Findings::default());
    }
    Session::begin(settings).await?.check_rotation(resolved, then).await
}

/// Removes a secret from the ledger that will not be rotated.
///
/// # Errors
/// If it is not in the ledger, or its removal cannot be recorded.
pub async fn waive(reference: &Reference, reason: &str, settings: &Settings) -> Result<(), BreakGlassError> {
    let mut session = Session::begin(settings).await?;
    if session.ledger.pending.remove(reference.as_str()).is_none() {
        return Err(BreakGlassError::NotPending { reference: reference.clone() });
    }
    session.record(Event::Waive { reference: reference.as_str(), reason }).await?;
    Ok(session.ledger.write(&session.lock)?)
}

impl Session<'_> {
    async fn check_rotation(&mut self, resolved: &[Resolved<'_>], then: Overdue) -> Result<Findings, BreakGlassError> {
        let hasher = Hasher::read(self.lock.directory())?;
        let (before, grace) = (self.ledger.clone(), self.settings.break_glass.rotation.grace);
        let (mut findings, now) = (Findings::default(), Timestamp::now());
        let mut overdue = None;
        for one in resolved {
            let reference = one.request.reference.as_str();
            let Some(pending) = self.ledger.pending.get_mut(reference) else { continue };
            let value = hasher.as_ref().map(|hasher| hasher.hash(reference, &one.secret));
            if pending.is_rotated(one.item_id.as_deref(), one.item_version, value.as_deref()) {
                let (item, version) = (one.item_id.as_deref(), one.item_version);
                match self.record(Event::Rotated { reference, item, version }).await {
                    Ok(()) => {
                        self.ledger.pending.remove(reference);
                        findings.rotated.push(reference.to_owned());
                    }
                    Err(error) => findings.unrecorded = Some(error.into()),
                }
                continue;
            }
            let due = pending.due(grace, now);
            if pending.is_overdue(now) && then == Overdue::Refuse {
                let reference = one.request.reference.clone();
                overdue.get_or_insert(BreakGlassError::Overdue { reference, used: pending.last_used, due });
            }
            findings.pending.push((reference.to_owned(), due));
        }
        if self.ledger != before {
            self.ledger.write(&self.lock)?;
        }
        overdue.map_or(Ok(findings), Err)
    }
}
