//! The thread that waits for the network.

use std::time::Duration;

use super::error::CliError;
use super::source::patience;
use crate::fault::AnyFault;
use crate::retry::Deadline;
use crate::settings::Settings;

/// How long threads may take to end.
const THREADS_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs network requests on this thread, within the settings' deadline, or longer where a person has to unlock an app.
pub(super) fn block_on<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(Deadline) -> Result<T, AnyFault>,
) -> Result<T, AnyFault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Runtime { errno: error.into() })?;
    let outcome = runtime.block_on(async { work(Deadline::after(patience(settings))).await });
    // Threads end at once, except one that waits for a name server: the caller does not wait for it.
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    outcome
}
