//! Sockets, connections and signals.
//!
//! Each version of the settings is one task, which serves the connections that were accepted while it was the current one, and ends
//! with the last of them.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join_all, join3, select, select_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, interval, sleep, timeout};

use super::connection::Connection;
use super::error::{PROGRAM, ProgramError};
use super::identity::Identity;
use super::limits::Limits;
use super::listen::{Listeners, bind, socket_path};
use super::live::{self, Live};
use super::loaded::{Loaded, SourceCell};
use super::metrics::Metrics;
use super::nri_metrics;
use super::peer::Peer;
use super::protocol::{Answer, REQUEST_BYTES_MAX, Refusal, Request, Selection, Status, USER_REQUEST_BYTES_MAX};
use super::start;
use crate::fault::{AnyFault, Fault as _};
use crate::nri;
use crate::retry::Deadline;
use crate::settings::{MetricsAddress, Settings};
use crate::whole_file::Existing;
use crate::{monitoring, report, systemd};

/// The longest time for starts in progress at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after an accept fails for want of descriptors: connections that end free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The user of a peer that the kernel does not name: not root.
const UNKNOWN: u32 = u32::MAX;

/// A connection that was accepted.
struct Accepted {
    connection: Connection,
    peer: Peer,
}

/// What all versions of the settings serve with.
#[derive(Clone)]
struct Shared {
    source: Rc<SourceCell>,
    /// The plugin that adds the hook to containers, if the settings have one.
    nri: Option<Arc<nri::State>>,
    live: Rc<Live>,
}

/// What accepts connections, and gives each to the current version of the settings.
struct Server {
    path: PathBuf,
    limits: Arc<Limits>,
    metrics: Metrics,
    shared: Shared,
    current: RefCell<Generation>,
    /// Earlier versions that still serve.
    ending: RefCell<Vec<JoinHandle<()>>>,
    is_draining: Cell<bool>,
}

/// One version of the settings.
struct Generation {
    settings: Rc<Settings>,
    accepted: UnboundedSender<Accepted>,
    task: JoinHandle<()>,
}

impl Generation {
    fn begin(settings: Rc<Settings>, shared: Shared, server: Weak<Server>) -> Generation {
        let (accepted, receiver) = unbounded_channel();
        let task = spawn_local(serve_generation(Rc::clone(&settings), shared, receiver, server));
        Generation { settings, accepted, task }
    }
}

/// Serves until SIGTERM or SIGINT, and then ends the starts in progress.
///
/// # Errors
/// The settings cannot be used, or there is no socket to listen on.
pub async fn serve(path: &Path, socket: Option<&Path>, existing: Existing) -> Result<(), ProgramError> {
    let settings = Rc::new(Settings::load(path)?);
    let signal_of = |kind| signal(kind).map_err(|error| ProgramError::Signals { errno: error.into() });
    let (mut terminate, mut interrupt) = (signal_of(SignalKind::terminate())?, signal_of(SignalKind::interrupt())?);
    let reload = signal_of(SignalKind::hangup())?;
    let listeners = Listeners::open(socket_path(socket, &settings), existing)?;
    let plugin = settings.nri.socket.as_deref().map(|socket| nri::start(PROGRAM, socket, &settings.nri)).transpose();
    let plugin = plugin.map_err(|error| ProgramError::Runtime { errno: error.into() })?;
    let shared = Shared { source: Rc::default(), nri: plugin, live: Live::new(&settings.updates.directory) };
    let server = Rc::new_cyclic(|server| Server {
        path: path.to_owned(),
        limits: Arc::default(),
        metrics: Metrics::default(),
        shared: shared.clone(),
        current: RefCell::new(Generation::begin(Rc::clone(&settings), shared, server.clone())),
        ending: RefCell::default(),
        is_draining: Cell::new(false),
    });
    if let Some(address) = &settings.broker.metrics {
        server.serve_metrics(address)?;
    }
    spawn_local(Rc::clone(&server).reload_on(reload));
    if let Some(period) = systemd::watchdog() {
        spawn_local(notify_watchdog(period / 2));
    }
    systemd::notify("READY=1");
    let accepting = join_all(listeners.sockets.iter().map(|listener| server.accept(listener)));
    select(pin!(accepting), pin!(select_all([Box::pin(terminate.recv()), Box::pin(interrupt.recv())]))).await;
    systemd::notify("STOPPING=1");
    let end = async {
        for socket in listeners.close() {
            server.take(socket).await;
        }
        server.drain().await;
    };
    let _ = timeout(DRAIN_TIMEOUT, end).await;
    Ok(())
}

impl Server {
    async fn accept(&self, listener: &UnixListener) -> Infallible {
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            self.take(socket).await;
        }
    }

    async fn take(&self, socket: UnixStream) {
        if let Err((uid, refused)) = self.admit(socket) {
            self.metrics.connection_refused();
            self.limits.refuse(uid, refused).await;
        }
    }

    /// Passes a connection on, or returns it with the user whose it is.
    fn admit(&self, socket: UnixStream) -> Result<(), (u32, UnixStream)> {
        let Ok(peer) = Peer::of(&socket) else { return Err((UNKNOWN, socket)) };
        let current = self.current.borrow();
        let Some(slot) = self.limits.admit(peer.uid, &current.settings.broker) else {
            return Err((peer.uid, socket));
        };
        if current.accepted.send(Accepted { connection: Connection::new(socket, slot), peer }).is_err() {
            self.metrics.connection_refused();
        }
        Ok(())
    }

    /// Serves one connection: one request.
    async fn serve_connection(&self, Accepted { connection, peer }: Accepted, loaded: &Loaded<'_>) {
        let max = if peer.is_root() { REQUEST_BYTES_MAX } else { USER_REQUEST_BYTES_MAX };
        connection.turn().await;
        // A hook connects before it finds its container.
        let until = Instant::now() + loaded.settings.deliver.deadline;
        match connection.receive_request(max, until).await {
            // A start's process comes with what is found of its container.
            Ok((Request::Start(request), _, _share)) => {
                let began = Instant::now();
                let outcome = start::serve(&connection, &peer, *request, loaded, &self.shared.live).await;
                self.metrics.start(outcome, began.elapsed().as_secs_f64());
            }
            Ok((Request::Status, ..)) if peer.is_root() => {
                // A peer that is gone does not need it.
                let _ = connection.send(&Answer::Status(Box::new(self.status(loaded))), None).await;
            }
            Ok((Request::Forget, ..)) if peer.is_root() => {
                self.shared.source.forget();
                let _ = connection.send(&Answer::Nothing, None).await;
            }
            Ok((Request::Running(selection), ..)) if peer.is_root() => {
                let _ = connection.send(&self.shared.live.list(&selection, loaded), None).await;
            }
            Ok((Request::Refresh(selection), ..)) if peer.is_root() => {
                let selection = Selection { live: true, ..selection };
                self.shared.live.refresh(&selection, loaded).await;
                let _ = connection.send(&self.shared.live.list(&selection, loaded), None).await;
            }
            Ok((Request::Revocations, ..)) if peer.is_root() => {
                let _ = connection.send(&or_refusal(live::revocations(loaded.settings).await), None).await;
            }
            Ok((Request::Revoke(order), ..)) if peer.is_root() => {
                let _ = connection.send(&or_refusal(self.shared.live.revoke(order, loaded).await), None).await;
            }
            Ok((Request::EndRevocation(order), ..)) if peer.is_root() => {
                let _ = connection.send(&or_refusal(self.shared.live.end_revocation(order, loaded).await), None).await;
            }
            Ok((Request::Pod { container }, ..)) if peer.is_root() => {
                let _ = connection.send(&pod_of(&container, loaded).await, None).await;
            }
            // For root alone.
            Ok(_) => {}
            Err(error) => connection.send_version(&error).await,
        }
    }

    fn status(&self, loaded: &Loaded<'_>) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.path.clone(),
            grants: loaded.settings.grants.iter().count(),
            connections: self.limits.connections(),
            source: self.shared.source.snapshot(),
            nri: self.shared.nri.as_deref().map(nri::State::snapshot),
        }
    }

    /// Loads the settings again at each of these signals. If they cannot be used, the previous ones stay in effect.
    async fn reload_on(self: Rc<Server>, mut signal: Signal) {
        while signal.recv().await.is_some() {
            systemd::notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_microseconds()));
            let loaded = Settings::load(&self.path);
            self.metrics.reload(loaded.is_ok());
            match loaded {
                Ok(settings) => {
                    self.note_unchanged(&settings);
                    self.shared.source.reload(&settings);
                    self.replace(Rc::new(settings));
                    report::note(PROGRAM, "loaded the settings again");
                }
                Err(error) => {
                    let text = format!("the previous settings stay in effect: {}", report::chain(&error));
                    report::print_error(PROGRAM, &text, error.hint().as_deref());
                }
            }
            systemd::notify("READY=1");
        }
    }

    /// Notes what a reload does not change.
    fn note_unchanged(&self, settings: &Settings) {
        let current = self.current.borrow();
        for (name, differs) in [
            ("`metrics`", current.settings.broker.metrics != settings.broker.metrics),
            ("[nri]", current.settings.nri != settings.nri),
        ] {
            if differs {
                report::note(PROGRAM, &format!("a change of {name} takes effect after a restart"));
            }
        }
    }

    fn replace(self: &Rc<Server>, settings: Rc<Settings>) {
        if self.is_draining.get() {
            return;
        }
        let new = Generation::begin(settings, self.shared.clone(), Rc::downgrade(self));
        let old = self.current.replace(new);
        let mut ending = self.ending.borrow_mut();
        ending.retain(|task| !task.is_finished());
        ending.push(old.task);
    }

    /// Waits for the end of all starts.
    async fn drain(&self) {
        self.is_draining.set(true);
        let closed = unbounded_channel().0;
        let task = {
            let mut current = self.current.borrow_mut();
            current.accepted = closed;
            std::mem::replace(&mut current.task, spawn_local(async {}))
        };
        let ending = std::mem::take(&mut *self.ending.borrow_mut());
        join_all(ending.into_iter().chain([task])).await;
    }

    fn serve_metrics(self: &Rc<Server>, address: &MetricsAddress) -> Result<(), ProgramError> {
        let server = Rc::clone(self);
        let text = move || {
            let plugin = server.shared.nri.as_deref().map(|state| nri_metrics::samples(&state.snapshot()));
            let samples = server
                .shared
                .source
                .metrics()
                .into_iter()
                .chain(plugin.unwrap_or_default())
                .chain(server.shared.live.metrics())
                .collect();
            server.metrics.to_text(server.limits.connections(), samples)
        };
        match address {
            MetricsAddress::Unix(path) => {
                let listener = bind(path, 0o660, Existing::Keep)?;
                let accept = async move || listener.accept().await.map(|(socket, _)| socket);
                spawn_local(monitoring::serve(accept, text));
            }
            MetricsAddress::Port(address) => {
                let failed =
                    |error: io::Error| ProgramError::Metrics { address: address.to_string(), errno: error.into() };
                let listener = std::net::TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let listener = TcpListener::from_std(listener).map_err(failed)?;
                let accept = async move || listener.accept().await.map(|(socket, _)| socket);
                spawn_local(monitoring::serve(accept, text));
            }
        }
        Ok(())
    }
}

/// An answer, or why there is another one.
fn or_refusal(answer: Result<Answer, AnyFault>) -> Answer {
    answer.unwrap_or_else(|error| Answer::Refused(Refusal::of(&*error)))
}

/// All that can be known of the pod of a container.
async fn pod_of(container: &str, loaded: &Loaded<'_>) -> Answer {
    let deadline = Deadline::after(loaded.settings.deliver.deadline);
    let Identity { pod, unknown } = loaded.identities.all_of(container, deadline).await;
    Answer::Pod { pod: pod.map(Box::new), unknown: unknown.map(|error| Refusal::of(&*error)) }
}

/// Serves connections with one version of the settings, until there will be no more.
async fn serve_generation(
    settings: Rc<Settings>,
    Shared { source, nri, live }: Shared,
    accepted: UnboundedReceiver<Accepted>,
    server: Weak<Server>,
) {
    let (loaded, is_over) = (Loaded::new(&settings, source, nri), [Notify::new(), Notify::new()]);
    join3(
        serve_connections(&loaded, accepted, server, &is_over),
        live.update_periodically(&loaded, &is_over[0]),
        live.withdraw_periodically(&loaded, &is_over[1]),
    )
    .await;
}

async fn serve_connections(
    loaded: &Loaded<'_>,
    mut accepted: UnboundedReceiver<Accepted>,
    server: Weak<Server>,
    is_over: &[Notify],
) {
    let mut serving = FuturesUnordered::new();
    let mut is_current = true;
    while is_current || !serving.is_empty() {
        let next = async {
            match is_current {
                true => accepted.recv().await,
                false => pending().await,
            }
        };
        let ended = async {
            match serving.is_empty() {
                true => pending().await,
                false => serving.next().await,
            }
        };
        let next = match select(pin!(next), pin!(ended)).await {
            Either::Left((next, _)) => next.zip(server.upgrade()),
            Either::Right(_) => continue,
        };
        match next {
            Some((accepted, server)) => {
                serving.push(async move { server.serve_connection(accepted, loaded).await });
            }
            None => {
                is_current = false;
                is_over.iter().for_each(Notify::notify_one);
            }
        }
    }
}

async fn notify_watchdog(period: Duration) {
    let mut interval = interval(period);
    loop {
        interval.tick().await;
        systemd::notify("WATCHDOG=1");
    }
}

fn monotonic_microseconds() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}
