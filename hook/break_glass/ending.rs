//! The end of an emergency: its secrets are destroyed, the end is recorded, and the grace period of the used secrets begins.

use jiff::Timestamp;

use super::BreakGlassError;
use super::channel::{Event, PROGRAM};
use super::session::Session;
use super::store::{Emergency, Status};
use crate::report;
use crate::settings::Settings;

/// Returns the open emergency, if there is one. An emergency that is over, but whose end is not recorded, is ended here.
///
/// # Errors
/// If the store cannot be trusted or read, or the end cannot be recorded.
pub async fn find(settings: &Settings) -> Result<Option<Emergency>, BreakGlassError> {
    match Emergency::current()? {
        Some(emergency) if emergency.status()? != Status::Open => end(&emergency, settings).await.map(|_| None),
        found => Ok(found),
    }
}

/// Ends an emergency and returns its previous status. If several processes do so at the same time, one of them records the end.
///
/// The store is removed last: until the end is recorded, the next process that finds the store ends it again. So even if a
/// process is killed, each end is recorded and each grace period begins. An end may be recorded twice.
///
/// # Errors
/// If the end cannot be recorded, or the store cannot be removed. The secrets are destroyed in any case.
pub async fn end(emergency: &Emergency, settings: &Settings) -> Result<Status, BreakGlassError> {
    let status = emergency.status();
    emergency.destroy_key();
    let status = status?;
    if status == Status::KeyRemoved {
        let text = "was removed from root's keyring before it expired; a process with uid 0 outside of user namespaces did that";
        report::warn(PROGRAM, &format!("break-glass: the key of emergency {} {text}", emergency.account().id));
    }
    Session::begin(settings).await?.end(emergency, status).await?;
    Ok(status)
}

impl Session<'_> {
    async fn end(&mut self, emergency: &Emergency, status: Status) -> Result<(), BreakGlassError> {
        let id = emergency.account().id.as_str();
        if Emergency::current()?.is_none_or(|there| there.account().id != id) {
            return Ok(());
        }
        if self.ledger.begin_grace(self.settings.break_glass.rotation.grace, Timestamp::now()) {
            self.ledger.write(&self.lock)?;
        }
        let (expired, tampered) = (status == Status::Expired, status == Status::KeyRemoved);
        let recorded = self.record(Event::Close { emergency: id, expired, tampered }).await;
        recorded.map_err(|source| BreakGlassError::Unrecorded { source })?;
        Ok(emergency.remove()?)
    }
}
