//! The open emergency.

use crate::break_glass::ending;
use crate::break_glass::store::{Emergency, Status};
use crate::cli::{PROGRAM, block_on};
use crate::fault::AnyFault;
use crate::report;
use crate::settings::Settings;

/// Returns the open emergency, if there is one, and ends one that is over.
pub(super) fn find(settings: &Settings) -> Result<Option<Emergency>, AnyFault> {
    match Emergency::current()? {
        Some(emergency) if emergency.status()? != Status::Open => end(&emergency, settings).map(|()| None),
        found => Ok(found),
    }
}

/// Ends an emergency, and also reports on the terminal if its key was removed.
pub(super) fn end(emergency: &Emergency, settings: &Settings) -> Result<(), AnyFault> {
    let status = block_on(settings, async |_| Ok(ending::end(emergency, settings).await?))?;
    if status == Status::KeyRemoved {
        let id = &emergency.account().id;
        report::note(
            PROGRAM,
            &format!("emergency {id} was ended by a process that removed its key from root's keyring"),
        );
    }
    Ok(())
}
