//! `oci-secrets break-glass expire`: waits for the end of an emergency and clears its store away. `open` starts it.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use crate::break_glass::ending::end;
use crate::break_glass::store::Emergency;
use crate::fault::AnyFault;
use crate::settings::Settings;

/// A clock may be set, and an emergency be closed by others: how often one looks.
const LOOK: Duration = Duration::from_secs(60);

pub(super) fn run(settings: &Settings) -> Result<ExitCode, AnyFault> {
    // The terminal on which the emergency was opened may be closed.
    let _ = rustix::process::setsid();
    let find = || Emergency::at_place().map_err(AnyFault::from);
    let Some(first) = find()? else { return Ok(ExitCode::SUCCESS) };
    let id = first.account().id.clone();
    drop(first);
    while let Some(emergency) = find()?.filter(|emergency| emergency.account().id == id) {
        if emergency.is_over() {
            end(&emergency, settings)?;
            break;
        }
        let remaining = emergency.remaining();
        drop(emergency);
        sleep(remaining.min(LOOK));
    }
    Ok(ExitCode::SUCCESS)
}
