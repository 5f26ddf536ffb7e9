//! What is owed after an emergency: each secret that it used is to be changed.

use jiff::Timestamp;

use super::BreakGlassError;
use super::channel::{Channel, Event};
use super::ledger::{Hasher, Ledger};
use super::lock::Locked;
use crate::reference::Reference;
use crate::resolve::Resolved;
use crate::settings::{Overdue, Settings};

/// What a normal start is to be told about the secrets that it got.
#[derive(Debug, Default)]
pub struct Findings {
    /// Secrets that are changed, and owed no longer.
    pub changed: Vec<String>,
    /// Secrets that are still to be changed, and until when.
    pub owed: Vec<(String, Timestamp)>,
    /// Why secrets that are changed stay in the ledger: the channel does not take it.
    pub unrecorded: Option<BreakGlassError>,
}

/// Looks at the secrets that came the normal way: what is changed is struck off, for the rest the time of grace begins to run. `then`
/// says what happens after it.
///
/// # Errors
/// If the change of one is overdue and the settings refuse that, or nobody can tell what is owed.
pub fn check(resolved: &[Resolved<'_>], then: Overdue, settings: &Settings) -> Result<Findings, BreakGlassError> {
    let directory = &settings.break_glass.directory;
    let is_owed = |ledger: &Ledger| resolved.iter().any(|one| ledger.owed.contains_key(one.request.reference.as_str()));
    if !is_owed(&Ledger::read(directory)?) {
        return Ok(Findings::default());
    }
    let lock = Locked::take(directory)?;
    let (before, hasher) = (Ledger::read(directory)?, Hasher::read(directory)?);
    let (mut ledger, mut findings, now) = (before.clone(), Findings::default(), Timestamp::now());
    let mut overdue = None;
    for one in resolved {
        let reference = one.request.reference.as_str();
        let Some(owed) = ledger.owed.get_mut(reference) else { continue };
        let value = hasher.as_ref().map(|hasher| hasher.hash(reference, &one.secret));
        if owed.is_changed(one.item_id.as_deref(), one.item_version, value.as_deref()) {
            match strike_off(one, settings, &lock) {
                Ok(()) => {
                    ledger.owed.remove(reference);
                    findings.changed.push(reference.to_owned());
                }
                Err(error) => findings.unrecorded = Some(error),
            }
            continue;
        }
        let due = owed.due(settings.break_glass.rotation.grace, now);
        if owed.is_overdue(now) && then == Overdue::Refuse {
            let reference = one.request.reference.clone();
            overdue.get_or_insert(BreakGlassError::Overdue { reference, used: owed.last_used, due });
        }
        findings.owed.push((reference.to_owned(), due));
    }
    if ledger != before {
        ledger.write(&lock)?;
    }
    overdue.map_or(Ok(findings), Err)
}

/// Strikes a secret off that stays as it is.
///
/// # Errors
/// If it is not owed, or that cannot be recorded.
pub fn waive(reference: &Reference, reason: &str, settings: &Settings) -> Result<(), BreakGlassError> {
    let lock = Locked::take(&settings.break_glass.directory)?;
    let mut ledger = Ledger::read(lock.directory())?;
    if ledger.owed.remove(reference.as_str()).is_none() {
        return Err(BreakGlassError::NotOwed { reference: reference.clone() });
    }
    Channel::open(settings, &lock)?.record(Event::Waive { reference: reference.as_str(), reason })?;
    Ok(ledger.write(&lock)?)
}

fn strike_off(one: &Resolved<'_>, settings: &Settings, lock: &Locked) -> Result<(), BreakGlassError> {
    let (reference, item) = (one.request.reference.as_str(), one.item_id.as_deref());
    let event = Event::Rotated { reference, item, version: one.item_version };
    Ok(Channel::open(settings, lock)?.record(event)?)
}
