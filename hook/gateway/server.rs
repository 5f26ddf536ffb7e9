//! Sockets, connections and signals.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::GatewayError;
use super::issuer::Issuer;
use super::metrics::{self, Metrics};
use super::record::Trail;
use super::service::Gateway;
use super::settings::{IssuerSettings, Settings};
use super::upstream::Upstream;
use super::{complain, note, systemd, tls};

/// How long a client has for its part of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it has for the head of its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection lives, however it is used.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long requests that are under way have to end when we do.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest head of a request that is answered by more than a status.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// How many ask for metrics at once.
const METRICS_CONNECTIONS: usize = 4;
/// How long to wait when there are no descriptors left: connections that end give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the settings say now. Connections that are made, and requests that come, take what is in force then.
struct Server {
    current: RefCell<Rc<Loaded>>,
    metrics: Rc<Metrics>,
}

/// What was made of settings.
pub struct Loaded {
    gateway: Gateway,
    tls: TlsAcceptor,
}

impl Loaded {
    /// Makes what the settings in a file say. Issuers that are as they were keep what is known of their keys.
    ///
    /// # Errors
    /// The settings, or a file that they name, cannot be used.
    pub fn new(path: &Path, issuers: &[Rc<Issuer>], metrics: &Rc<Metrics>) -> Result<Loaded, GatewayError> {
        let settings = Settings::load(path)?;
        let tls = tls::acceptor(&settings.tls)?;
        let upstream = Upstream::open(&settings.connect)?;
        let trail = Trail::open(settings.audit.file.as_deref(), settings.audit.stdout)
            .map_err(|source| GatewayError::Audit { source })?;
        let known = |wanted: &IssuerSettings| issuers.iter().find(|issuer| issuer.settings == *wanted).cloned();
        let issuers = settings.issuers.iter().map(|wanted| match known(wanted) {
            Some(issuer) => Ok(issuer),
            None => Issuer::new(wanted.clone()).map(Rc::new),
        });
        let issuers = issuers.collect::<Result<_, _>>()?;
        for warning in settings.warnings() {
            note(&warning);
        }
        Ok(Loaded { gateway: Gateway::new(settings, issuers, upstream, trail, Rc::clone(metrics)), tls })
    }
}

/// Serves until SIGTERM or SIGINT, and then what is under way.
///
/// # Errors
/// The settings cannot be used, or there is nowhere to listen.
pub async fn serve(path: &Path) -> Result<(), GatewayError> {
    let metrics = Rc::new(Metrics::default());
    let loaded = Rc::new(Loaded::new(path, &[], &metrics)?);
    let settings = &loaded.gateway.settings;
    let signal_of = |kind| signal(kind).map_err(|error| GatewayError::Signals { errno: error.into() });
    let signals = (signal_of(SignalKind::terminate())?, signal_of(SignalKind::interrupt())?);
    let reload = signal_of(SignalKind::hangup())?;
    let listener = listen(settings.listen).await?;
    note(&format!("listening on {}", address(&listener)));
    let monitoring = match &settings.metrics {
        Some(metrics) => Some(bind(metrics.listen).await?),
        None => None,
    };
    let server = Rc::new(Server { current: RefCell::new(Rc::clone(&loaded)), metrics });
    if let Some(listener) = monitoring {
        note(&format!("metrics are on {}", address(&listener)));
        tokio::task::spawn_local(Rc::clone(&server).serve_metrics(listener));
    }
    tokio::task::spawn_local(Rc::clone(&server).reload_on(reload, path.to_owned()));

    let graceful = GracefulShutdown::new();
    systemd::notify("READY=1");
    select(pin!(Rc::clone(&server).accept(listener, &graceful)), pin!(told_to_end(signals))).await;
    systemd::notify("STOPPING=1");
    // What takes longer is cut off: whoever waits for it has no more time either.
    let _ = timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

impl Server {
    fn current(&self) -> Rc<Loaded> {
        Rc::clone(&self.current.borrow())
    }

    /// Accepts connections for ever, as many at once as the settings allowed at the start.
    async fn accept(self: Rc<Server>, listener: TcpListener, graceful: &GracefulShutdown) -> Infallible {
        let limit = self.current().gateway.settings.limits.connections.get();
        let connections = Arc::new(Semaphore::new(usize::try_from(limit).unwrap_or(usize::MAX)));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { continue };
            match listener.accept().await {
                Ok((socket, peer)) => {
                    let connection = Rc::clone(&self).serve_connection(socket, peer, graceful.watcher(), permit);
                    tokio::task::spawn_local(connection);
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Serves one connection until either side, or its time, ends it.
    async fn serve_connection(
        self: Rc<Server>,
        socket: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        _permit: OwnedSemaphorePermit,
    ) {
        let _ = socket.set_nodelay(true);
        let handshake = self.current().tls.accept(socket);
        let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, handshake).await else { return };
        let server = Rc::clone(&self);
        let answer = service_fn(move |request: Request<Incoming>| {
            let loaded = server.current();
            async move { Ok::<_, Infallible>(loaded.gateway.serve(peer, request).await) }
        });
        let connection = http(HEAD_TIMEOUT).serve_connection(TokioIo::new(stream), answer);
        self.metrics.connections.inc();
        if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, watcher.watch(connection)).await
            && error.is_parse_too_large()
        {
            self.current().gateway.note_large_request(peer);
        }
        self.metrics.connections.dec();
    }

    /// Reads the settings anew at each of these signals. Bad ones change nothing.
    async fn reload_on(self: Rc<Server>, mut signal: Signal, path: PathBuf) {
        while signal.recv().await.is_some() {
            let old = self.current();
            let loaded = Loaded::new(&path, &old.gateway.issuers, &self.metrics);
            self.metrics.reload(loaded.is_ok());
            match loaded {
                Ok(loaded) => {
                    if loaded.gateway.settings.is_bound_otherwise(&old.gateway.settings) {
                        note("listen, metrics and limits.connections are as they were until the next start");
                    }
                    *self.current.borrow_mut() = Rc::new(loaded);
                    note("the settings were read anew");
                }
                Err(error) => complain("the settings stay as they were", &error),
            }
        }
    }

    async fn serve_metrics(self: Rc<Server>, listener: TcpListener) -> Infallible {
        let connections = Arc::new(Semaphore::new(METRICS_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { continue };
            let Ok((socket, _)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let server = Rc::clone(&self);
            let answer = service_fn(move |request: Request<Incoming>| {
                let response = server.answer_monitoring(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::task::spawn_local(async move {
                let connection = http(HANDSHAKE_TIMEOUT).serve_connection(TokioIo::new(socket), answer);
                let _ = timeout(CONNECTION_TIMEOUT, connection).await;
                drop(permit);
            });
        }
    }

    fn answer_monitoring(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_metrics = request.method() == Method::GET && request.uri().path() == "/metrics";
        let text = is_metrics.then(|| self.metrics.to_text(&self.current().gateway.issuers));
        let status = if is_metrics { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let mut response = Response::new(Full::from(text.unwrap_or_default()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
        response
    }
}

fn http(head_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    http
}

/// The socket that systemd passed, or one at the address of the settings.
async fn listen(address: Option<SocketAddr>) -> Result<TcpListener, GatewayError> {
    let passed = systemd::socket().map_err(|reason| GatewayError::Passed { reason })?;
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

async fn told_to_end((mut terminate, mut interrupt): (Signal, Signal)) {
    select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
}
