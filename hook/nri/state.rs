//! What the thread of the plugin shows to others.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::pods::Pods;

/// The state of the plugin, shared by threads.
#[derive(Debug, Default)]
pub struct State {
    /// The pods of the host.
    pub pods: Pods,
    socket: PathBuf,
    connection: Mutex<Connection>,
    registrations: AtomicU64,
    adjusted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Connection {
    runtime: Option<Runtime>,
    started_without: usize,
    cause: Option<String>,
}

/// The runtime at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether the plugin may refuse containers that lack the hook.
    pub validates: bool,
}

/// The state at one moment, for `check` and monitoring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The socket of the runtime.
    pub socket: PathBuf,
    /// The runtime, while the plugin is registered with one.
    pub runtime: Option<Runtime>,
    /// Why the last connection ended or could not be made, if it is not registered.
    pub cause: Option<String>,
    /// How often it was registered.
    pub registrations: u64,
    /// The containers that it has adjusted.
    pub adjusted: u64,
    /// The containers that it has refused.
    pub refused: u64,
    /// The containers that ran without the hook when it was registered last, and request secrets.
    pub started_without: usize,
}

impl State {
    /// The state of a plugin that will connect to this socket.
    pub(super) fn new(socket: PathBuf) -> State {
        State { socket, ..State::default() }
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        let connection = self.connection();
        Snapshot {
            socket: self.socket.clone(),
            runtime: connection.runtime.clone(),
            cause: connection.cause.clone(),
            registrations: self.registrations.load(Ordering::Relaxed),
            adjusted: self.adjusted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            started_without: connection.started_without,
        }
    }

    pub(super) fn registered(&self, runtime: Runtime, started_without: usize) {
        self.registrations.fetch_add(1, Ordering::Relaxed);
        *self.connection() = Connection { runtime: Some(runtime), started_without, cause: None };
    }

    pub(super) fn disconnected(&self, cause: String) {
        let mut connection = self.connection();
        *connection = Connection { runtime: None, cause: Some(cause), ..*connection };
    }

    pub(super) fn adjusted(&self) {
        self.adjusted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A panic ends the process, so no other thread ever meets what one left behind.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
