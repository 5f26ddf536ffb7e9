//! The server for metrics: plain HTTP on its own address or socket.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// The type of the text, as [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) has it.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at the same time; further ones wait.
const CONNECTIONS_MAX: usize = 4;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The pause after an accept fails for want of descriptors: connections that end free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves this text on every connection that is accepted.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    accept: impl AsyncFn() -> io::Result<S>,
    text: impl Fn() -> String + 'static,
) -> Infallible {
    let (text, connections) = (Rc::new(text), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { continue };
        let Ok(socket) = accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let text = Rc::clone(&text);
        let respond = service_fn(move |request: Request<Incoming>| {
            let response = respond(&request, &*text);
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::task::spawn_local(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let _ = timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(socket), respond)).await;
            drop(permit);
        });
    }
}

fn respond(request: &Request<Incoming>, text: &impl Fn() -> String) -> Response<Full<Bytes>> {
    let is_metrics = request.method() == Method::GET && request.uri().path() == "/metrics";
    let mut response = Response::new(Full::from(if is_metrics { text() } else { String::new() }));
    *response.status_mut() = if is_metrics { StatusCode::OK } else { StatusCode::NOT_FOUND };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS));
    response
}
