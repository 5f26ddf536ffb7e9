//! The end of an emergency: the secrets are destroyed, that is recorded, and the time of grace runs.

use jiff::Timestamp;

use super::BreakGlassError;
use super::channel::{Channel, Event};
use super::ledger::Ledger;
use super::lock::Locked;
use super::store::Emergency;
use crate::settings::Settings;

/// The emergency that is open, if one is. One whose time is over is ended by whoever finds it.
///
/// # Errors
/// If there is something in its place that cannot be trusted or read, or the end cannot be recorded.
pub fn find(settings: &Settings) -> Result<Option<Emergency>, BreakGlassError> {
    match Emergency::at_place()? {
        Some(emergency) if emergency.is_over() => end(&emergency, settings).map(|()| None),
        found => Ok(found),
    }
}

/// Ends an emergency, whether or not its time is over. Of several who do so at the same time, one records it.
///
/// What is left of it is cleared away last: until its end is recorded, whoever finds it ends it again, so that no end goes unrecorded
/// and no time of grace waits, whoever is killed meanwhile. Such an end may be recorded twice.
///
/// # Errors
/// If it cannot be recorded or cleared away. Its secrets are destroyed all the same.
pub fn end(emergency: &Emergency, settings: &Settings) -> Result<(), BreakGlassError> {
    let expired = emergency.has_expired();
    emergency.forget();
    let id = emergency.account().id.as_str();
    let lock = Locked::take(&settings.break_glass.directory)?;
    if Emergency::at_place()?.is_none_or(|there| there.account().id != id) {
        return Ok(());
    }
    let mut ledger = Ledger::read(lock.directory())?;
    if ledger.run_grace(settings.break_glass.rotation.grace, Timestamp::now()) {
        ledger.write(&lock)?;
    }
    let record = || Channel::open(settings, &lock)?.record(Event::Close { emergency: id, expired });
    record().map_err(|source| BreakGlassError::Unrecorded { source })?;
    Ok(emergency.clear_away()?)
}
