//! HTTP/1.1 for all services, and HTTP/2 over TLS: one request in, one response out, connections kept alive.

use std::convert::Infallible;
use std::error::Error;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use crate::services::{Service, StandIn};

/// How many connections there were.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// A request with its complete body.
pub(crate) struct Request {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The number of its connection.
    pub(crate) connection: u64,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    async fn read(
        scheme: &'static str,
        connection: u64,
        request: hyper::Request<Incoming>,
    ) -> Result<Request, hyper::Error> {
        let (head, body) = request.into_parts();
        Ok(Request {
            scheme,
            connection,
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// The path's segments. A trailing slash adds none: 1Password's JavaScript client sends one.
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|segment| !segment.is_empty()).collect()
    }

    /// The decoded value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes()).find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }

    pub(crate) fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn bearer(&self) -> Option<&str> {
        self.header(AUTHORIZATION)?.strip_prefix("Bearer ")
    }

    /// The body as JSON; `Value::Null` if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

pub(crate) type Response = hyper::Response<Body>;

/// The connection is to be reset (TCP RST) instead of a response.
#[derive(Debug, thiserror::Error)]
#[error("reset on demand")]
pub(crate) struct Reset;

/// Response bodies: a complete one, and faults.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    /// A number of bytes, of one repeated chunk.
    Huge {
        left: u64,
        chunk: Bytes,
    },
    /// A first part, after which the connection is closed.
    Broken {
        part: Option<Bytes>,
        end: Pin<Box<Sleep>>,
    },
}

impl Body {
    pub(crate) fn broken(part: &'static [u8]) -> Body {
        // A moment, so that the part is sent before the connection is closed.
        let end = Box::pin(tokio::time::sleep(Duration::from_millis(20)));
        Body::Broken { part: Some(Bytes::from_static(part)), end }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Whole((!bytes.is_empty()).then(|| bytes.into()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Reset;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        Poll::Ready(match &mut *self {
            Body::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Body::Huge { left, .. } if *left == 0 => None,
            Body::Huge { left, chunk } => {
                *left = left.saturating_sub(chunk.len() as u64);
                Some(Ok(Frame::data(chunk.clone())))
            }
            Body::Broken { part: part @ Some(_), .. } => part.take().map(|part| Ok(Frame::data(part))),
            Body::Broken { end, .. } => {
                ready!(end.as_mut().poll(cx));
                Some(Err(Reset))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Body::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            _ => hyper::body::SizeHint::default(),
        }
    }
}

/// Serves all connections to `listener`, forever.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Service,
    stand_in: Arc<StandIn>,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let renewed = stand_in.renewal().current().filter(|_| service == Service::Connect);
                tokio::spawn(serve_connection(socket, renewed.or_else(|| tls.clone()), service, Arc::clone(&stand_in)));
            }
            // Probably EMFILE: closing connections frees descriptors.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

pub(crate) fn json(status: u16, body: &Value) -> Response {
    content(status, "application/json; charset=UTF-8", body.to_string())
}

pub(crate) fn content(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Response {
    let response = with_body(status, body.into().into());
    with_header(response, CONTENT_TYPE, HeaderValue::from_static(kind))
}

pub(crate) fn empty(status: u16) -> Response {
    with_body(status, Body::Whole(None))
}

pub(crate) fn with_body(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(crate) fn with_header(mut response: Response, name: HeaderName, value: HeaderValue) -> Response {
    response.headers_mut().insert(name, value);
    response
}

/// Serves one connection until either side ends it. Errors are ignored: tests observe them at the client.
async fn serve_connection(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    service: Service,
    stand_in: Arc<StandIn>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    socket.set_nodelay(true)?;
    // A second handle on the socket, because hyper owns the first when a reset is asked for.
    let handle = Arc::new(socket.as_fd().try_clone_to_owned()?);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let respond = service_fn(move |request| {
        let (stand_in, handle) = (Arc::clone(&stand_in), Arc::clone(&handle));
        async move {
            let request = Request::read(scheme, connection, request).await.map_err(|_| Reset)?;
            let response = stand_in.respond(service, &request).await;
            if response.is_err() {
                // Closing then discards what is unsent and sends RST.
                let _ = rustix::net::sockopt::set_socket_linger(&handle, Some(Duration::ZERO));
            }
            response
        }
    });
    let http = auto::Builder::new(TokioExecutor::new());
    match tls {
        None => http.serve_connection(TokioIo::new(socket), respond).await?,
        Some(tls) => {
            let stream = tls.accept(socket).await?;
            http.serve_connection(TokioIo::new(stream), respond).await?;
        }
    }
    Ok(())
}
