//! Work on files that a slow disk or the lock of another process may hold up: only the start that it belongs to waits.

use std::future::pending;
use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

/// How many records are written at the same time. Others wait for their turn: they go to the same file.
pub const THREADS_MAX: usize = 8;

/// Does this work on another thread. It is done even if nothing waits for it any more.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The broker ends.
            Err(_) => pending().await,
        },
    }
}
