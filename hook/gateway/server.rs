//! Sockets, connections and signals.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::connections::{Connection, Connections};
use super::error::GatewayError;
use super::loaded::Loaded;
use super::log;
use super::metrics::Metrics;
use crate::{monitoring, systemd};

/// The longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time until the head of the next request is complete.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time in which a client receives nothing of a response.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The longest time for requests in progress at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// The pause after an accept fails for want of descriptors: connections that end free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The current version of the settings. Connections and requests use the version at their start.
struct Server {
    current: RefCell<Rc<Loaded>>,
    metrics: Rc<Metrics>,
    connections: Rc<Connections>,
}

/// Serves until SIGTERM or SIGINT, and then ends the requests in progress.
///
/// # Errors
/// The settings cannot be used, or there is no address to listen on.
pub async fn serve(path: &Path) -> Result<(), GatewayError> {
    let metrics = Rc::new(Metrics::default());
    let loaded = Rc::new(Loaded::new(path, &[], &metrics)?);
    let settings = &loaded.gateway.settings;
    let signal_of = |kind| signal(kind).map_err(|error| GatewayError::Signals { errno: error.into() });
    let signals = (signal_of(SignalKind::terminate())?, signal_of(SignalKind::interrupt())?);
    let reload = signal_of(SignalKind::hangup())?;
    let listener = listen(settings.listen).await?;
    log::note(&format!("listening on {}", address(&listener)));
    let metrics_listener = match &settings.metrics {
        Some(metrics) => Some(bind(metrics.listen).await?),
        None => None,
    };
    let connections = Rc::default();
    let server = Rc::new(Server { current: RefCell::new(Rc::clone(&loaded)), metrics, connections });
    if let Some(listener) = metrics_listener {
        log::note(&format!("metrics are on {}", address(&listener)));
        let server = Rc::clone(&server);
        let text = move || server.metrics.to_text(&server.current().gateway.issuers);
        let accept = async move || listener.accept().await.map(|(socket, _)| socket);
        tokio::task::spawn_local(monitoring::serve(accept, text));
    }
    tokio::task::spawn_local(Rc::clone(&server).reload_on(reload, path.to_owned()));

    let graceful = GracefulShutdown::new();
    systemd::notify("READY=1");
    select(pin!(Rc::clone(&server).accept(listener, &graceful)), pin!(either(signals))).await;
    systemd::notify("STOPPING=1");
    let _ = timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

impl Server {
    fn current(&self) -> Rc<Loaded> {
        Rc::clone(&self.current.borrow())
    }

    async fn accept(self: Rc<Server>, listener: TcpListener, graceful: &GracefulShutdown) -> Infallible {
        loop {
            let Ok((socket, peer)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let limits = self.current().gateway.settings.limits.clone();
            match self.connections.admit(peer.ip().into(), &limits).await {
                Some(connection) => {
                    let serve = Rc::clone(&self).serve_connection(socket, peer, graceful.watcher(), connection);
                    tokio::task::spawn_local(serve);
                }
                None => self.metrics.connection_refused(),
            }
        }
    }

    /// Serves one connection until either side closes it, its time is over, or it makes way for another.
    async fn serve_connection(
        self: Rc<Server>,
        socket: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        connection: Connection,
    ) {
        let _ = socket.set_nodelay(true);
        let _ = set_tcp_user_timeout(&socket, STALL_TIMEOUT.as_millis() as u32);
        let connection = Rc::new(connection);
        self.metrics.connections.inc();
        let serve = Rc::clone(&self).serve_requests(socket, peer, watcher, Rc::clone(&connection));
        select(pin!(timeout(CONNECTION_TIMEOUT, serve)), pin!(connection.closed())).await;
        self.metrics.connections.dec();
    }

    async fn serve_requests(
        self: Rc<Server>,
        socket: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        connection: Rc<Connection>,
    ) {
        let handshake = self.current().tls.accept(socket);
        let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, handshake).await else { return };
        let server = Rc::clone(&self);
        let respond = service_fn(move |request: Request<Incoming>| {
            let (loaded, connection) = (server.current(), Rc::clone(&connection));
            async move { Ok::<_, Infallible>(loaded.gateway.serve(peer, &connection, &request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let served = watcher.watch(http.serve_connection(TokioIo::new(stream), respond)).await;
        if let Err(error) = served
            && error.is_parse()
        {
            self.current().gateway.record_unreadable(peer, error.is_parse_too_large());
        }
    }

    /// Loads the settings again at each of these signals. If they cannot be used, the previous ones stay in effect.
    async fn reload_on(self: Rc<Server>, mut signal: Signal, path: PathBuf) {
        while signal.recv().await.is_some() {
            let old = self.current();
            let loaded = Loaded::new(&path, &old.gateway.issuers, &self.metrics);
            self.metrics.reload(loaded.is_ok());
            match loaded {
                Ok(loaded) => {
                    if loaded.gateway.settings.needs_restart(&old.gateway.settings) {
                        log::note("a change of listen or [metrics] takes effect after a restart");
                    }
                    *self.current.borrow_mut() = Rc::new(loaded);
                    log::note("reloaded the settings");
                }
                Err(error) => log::error("the previous settings stay in effect", &error),
            }
        }
    }
}

/// The socket that systemd passed, or one at the address of the settings.
async fn listen(address: Option<SocketAddr>) -> Result<TcpListener, GatewayError> {
    let passed = systemd::tcp_socket().map_err(|reason| GatewayError::Passed { reason })?;
    match (passed, address) {
        (Some(socket), _) => {
            let listener = socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket));
            listener.map_err(|reason| GatewayError::Passed { reason })
        }
        (None, Some(address)) => bind(address).await,
        (None, None) => Err(GatewayError::NoListen),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|error| GatewayError::Listen { address, errno: error.into() })
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
}

async fn either((mut terminate, mut interrupt): (Signal, Signal)) {
    select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
}
