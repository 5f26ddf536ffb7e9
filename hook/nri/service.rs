//! The thread that keeps the plugin registered.
//!
//! It is a thread of its own: a runtime that waits too long for the answer to an event creates the container without the plugin, so that no
//! other work of the process may delay it.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use super::connection::{Name, serve};
use super::error::ConnectionError;
use super::plugin::Injector;
use super::state::State;
use crate::fault::Fault as _;
use crate::report;
use crate::settings;

/// The plugin's name among others. Two digits give its place: what plugins after it change, it does not see.
const NAME: Name = Name { index: "10", name: "oci-secrets" };

/// How long the runtime may take to register it.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after a connection; it doubles with each one that has failed, and is varied by half of itself.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The memory of a process that locks it is not for empty stacks.
const STACK_BYTES: usize = 512 * 1024;

/// Keeps a plugin registered at this socket until the process ends, and returns what it shows.
///
/// # Errors
/// There can be no thread.
pub fn start(program: &'static str, socket: &Path, settings: &settings::Nri) -> io::Result<Arc<State>> {
    let state = Arc::new(State::new(socket.to_owned()));
    let plugin = Injector::new(program, settings, Arc::clone(&state));
    let (socket, shown) = (socket.to_owned(), Arc::clone(&state));
    let (report, built) = channel();
    // The thread builds its runtime: if there can be no thread, a runtime would be dropped in an asynchronous context, which panics.
    thread::Builder::new().name("nri".into()).stack_size(STACK_BYTES).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return report.send(Err(error)).unwrap_or_default(),
        };
        let _ = report.send(Ok(()));
        keep_registered(&runtime, program, &socket, plugin, &shown)
    })?;
    built.recv().unwrap_or_else(|ended| Err(io::Error::other(ended)))?;
    Ok(state)
}

fn keep_registered(runtime: &Runtime, program: &'static str, socket: &Path, mut plugin: Injector, state: &State) {
    let mut pause = PAUSE_FIRST;
    let mut reported = String::new();
    loop {
        let before = state.snapshot().registrations;
        let Err(error) = runtime.block_on(connect_and_serve(socket, &mut plugin));
        let cause = report::chain(&error);
        state.disconnected(cause.clone());
        if state.snapshot().registrations > before {
            pause = PAUSE_FIRST;
            reported.clear();
        }
        // Once for each cause: a runtime may be away for long.
        if cause != reported {
            report::print_error(program, &cause, error.hint().as_deref());
            reported = cause;
        }
        runtime.block_on(async { sleep(pause.mul_f64(0.5 + fastrand::f64())).await });
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn connect_and_serve(socket: &Path, plugin: &mut Injector) -> Result<Infallible, ConnectionError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|error| ConnectionError::Connect { path: socket.into(), errno: error.into() })?;
    serve(stream, NAME, REGISTRATION_TIMEOUT, plugin).await
}
