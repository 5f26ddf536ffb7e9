//! The hook's use of an emergency: what the normal path could not get for want of an answer, and nothing else.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::BreakGlassError;
use super::channel::{Channel, Event};
use super::ledger::{Hasher, Ledger};
use super::lock::Locked;
use super::store::{Account, Emergency, StoreError};
use crate::container::Request;
use crate::report;
use crate::resolve::{ResolveError, Resolved};
use crate::settings::Settings;

/// A request, and why nobody answered it.
pub type Unanswered<'a> = (&'a Request, ResolveError);

/// What becomes of requests that nobody answered.
pub enum Answer<'a> {
    /// The emergency answers.
    Taken(Taken<'a>),
    /// It is over by now, so that this failure stands.
    Over(ResolveError),
}

/// Secrets that came from an emergency, and from which.
pub struct Taken<'a> {
    /// In the order of the requests.
    pub secrets: Vec<Resolved<'a>>,
    /// What was open.
    pub account: Account,
}

/// The part of the settings' deadline that the normal path has while an emergency is open: the rest is for what comes after it.
pub fn normal_deadline(deadline: Duration) -> Duration {
    deadline / 2
}

/// Takes secrets for a container from the emergency that is open.
///
/// The use is recorded, and what is owed for it is on the disk, before any secret is given.
///
/// # Errors
/// If one of the secrets is not in the store, or the use cannot be recorded or entered: then none is given.
pub fn take<'a>(
    wanted: Vec<Unanswered<'a>>,
    container: &str,
    bundle: &Path,
    settings: &Settings,
) -> Result<Answer<'a>, BreakGlassError> {
    let lock = Locked::take(&settings.break_glass.directory)?;
    let Some(emergency) = Emergency::at_place()?.filter(|emergency| !emergency.is_over()) else {
        return wanted.into_iter().next().map(|(_, failure)| Answer::Over(failure)).ok_or(StoreError::Over.into());
    };
    let account = emergency.account();
    let cause = wanted.first().map(|(_, failure)| report::chain(failure)).unwrap_or_default();
    let (mut secrets, mut used) = (Vec::new(), Vec::new());
    for (request, failure) in wanted {
        // What is computed from the field, as a one-time password is, cannot be kept.
        let reference = request.reference.as_str();
        let kept = if request.reference.query().is_none() { emergency.secret(reference)? } else { None };
        let Some((secret, kept)) = kept else {
            return Err(BreakGlassError::NotKept { reference: request.reference.clone(), source: failure });
        };
        let (item_id, item_version) = (Some(kept.item.clone()), Some(kept.version));
        secrets.push(Resolved { request, secret, item_id, item_version, kek: None, kek_version: None, kept: true });
        used.push(kept.clone());
    }
    let id = account.id.as_str();
    Channel::open(settings, &lock)?.record(Event::Use { emergency: id, container, bundle, secrets: &used, cause })?;

    let (mut ledger, hasher) = (Ledger::read(lock.directory())?, Hasher::make(&lock)?);
    let now = Timestamp::now();
    for (resolved, kept) in secrets.iter().zip(&used) {
        ledger.enter(kept, hasher.hash(&kept.reference, &resolved.secret), id, now);
    }
    ledger.write(&lock)?;
    Ok(Answer::Taken(Taken { secrets, account: account.clone() }))
}
