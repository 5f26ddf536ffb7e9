//! `oci-secrets break-glass expire`: waits for the end of an emergency and removes its store. `open` starts it.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use super::emergency::end;
use crate::break_glass::store::{Emergency, Status};
use crate::fault::AnyFault;
use crate::settings::Settings;

/// How often the emergency is checked: it may be closed, and the clock may be set.
const PERIOD: Duration = Duration::from_secs(60);

pub(super) fn run(settings: &Settings) -> Result<ExitCode, AnyFault> {
    // The terminal on which the emergency was opened may be closed.
    let _ = rustix::process::setsid();
    let Some(first) = Emergency::current()? else { return Ok(ExitCode::SUCCESS) };
    let id = first.account().id.clone();
    drop(first);
    while let Some(emergency) = Emergency::current()?.filter(|emergency| emergency.account().id == id) {
        if emergency.status()? != Status::Open {
            end(&emergency, settings)?;
            break;
        }
        let remaining = emergency.remaining();
        drop(emergency);
        sleep(remaining.min(PERIOD));
    }
    Ok(ExitCode::SUCCESS)
}
