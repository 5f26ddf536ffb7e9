//! Stands in, on loopback, for what tests cannot have: 1Password Connect, Google Cloud KMS, Google's identity endpoints and its
//! metadata server.
//!
//! It prints one line of JSON with its addresses and Connect tokens when it is ready, and ends with its standard input, so that it
//! cannot outlive whoever started it. It keeps everything in memory and starts with the same [`connect::world`] every time.
//!
//! Faults are asked for by name ([`fault`]): a title that is looked up, an item of the vault `Faults`, or a KMS key. Every address
//! also answers, without a token, `GET /stand-in/requests` (what was asked), `GET /stand-in/hits` (who followed a redirect) and
//! `POST /stand-in/reset`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a stand-in that cannot go on should say so at once"
)]

mod connect;
mod fault;
mod google;
mod http;
mod kms;
mod requests;
mod tls;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use connect::token;
use http::{Request, Response};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

/// Stands in on loopback for 1Password Connect and Google Cloud.
#[derive(Parser)]
struct Arguments {
    /// Write the files that clients need (tokens, the certificate authority) into this directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Speak https, with a certificate of the authority that is written to `ca.pem`
    #[arg(long, requires = "dir")]
    tls: bool,
    /// Speak https with a certificate whose time is over
    #[arg(long, requires = "dir")]
    tls_expired: bool,
    /// Delay every response by so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// Port of 1Password Connect; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    connect_port: u16,
    /// Port of Cloud KMS; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    kms_port: u16,
}

/// All services with their state, which they share so that one log tells the order of all requests.
struct StandIn {
    latency: Duration,
    requests: requests::Requests,
    faults: fault::Faults,
    connect: connect::Connect,
    kms: kms::Kms,
}

/// A service that is stood in for; each listens on an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Connect,
    Kms,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let stand_in = Arc::new(StandIn {
        latency: Duration::from_millis(arguments.latency),
        requests: requests::Requests::default(),
        faults: fault::Faults::default(),
        connect: connect::Connect::new(),
        kms: kms::Kms::default(),
    });
    if let Some(dir) = &arguments.dir {
        token::write_files(dir)?;
    }
    let tls = match &arguments.dir {
        Some(dir) if arguments.tls || arguments.tls_expired => Some(tls::acceptor(dir, arguments.tls_expired)?),
        _ => None,
    };
    let connect = listen(&stand_in, tls.clone(), Service::Connect, arguments.connect_port).await?;
    let kms = listen(&stand_in, tls.clone(), Service::Kms, arguments.kms_port).await?;

    let ready = json!({
        "connect": connect,
        "kms": kms,
        "token": token::GOOD.encode(),
        "expired_token": token::EXPIRED.encode(),
        "limited_token": token::LIMITED.encode(),
    });
    writeln!(io::stdout(), "{ready}")?;
    wait_for_the_end().await?;
    // Not by returning: the thread that reads standard input would be waited for.
    std::process::exit(0)
}

/// Starts to serve at `port` of 127.0.0.1 and tells the URL.
async fn listen(stand_in: &Arc<StandIn>, tls: Option<TlsAcceptor>, service: Service, port: u16) -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    tokio::spawn(http::serve(listener, tls, service, Arc::clone(stand_in)));
    Ok(url)
}

/// Returns when standard input is closed or on SIGTERM.
async fn wait_for_the_end() -> io::Result<()> {
    let mut stdin = tokio::io::stdin();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ignored = [0; 1024];
    loop {
        tokio::select! {
            read = stdin.read(&mut ignored) => if read? == 0 { return Ok(()) },
            _ = terminate.recv() => return Ok(()),
        }
    }
}

impl StandIn {
    /// The response to one request, or `Err` if the connection is to be reset instead.
    async fn respond(&self, service: Service, request: &Request) -> Result<Response, http::Reset> {
        if let Some(response) = self.administer(request) {
            return Ok(response);
        }
        let entry = self.requests.record(service, request);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let response = match self.name_asked_for(service, request) {
            Some(name) => self.faults.serve(service, &name, request).await?,
            None => None,
        };
        let response = response.unwrap_or_else(|| self.answer(service, request));
        self.requests.finish(entry, response.status());
        Ok(response)
    }

    /// Serves the paths that are not of any service but of the stand-in itself.
    fn administer(&self, request: &Request) -> Option<Response> {
        match (request.method.as_str(), request.path.strip_prefix("/stand-in/")?) {
            ("GET", "requests") => Some(http::json(200, &self.requests.to_json())),
            ("GET", "hits") => Some(http::json(200, &json!({ "hits": self.faults.hits() }))),
            ("POST", "reset") => {
                self.requests.reset();
                self.faults.reset();
                self.connect.reset();
                self.kms.reset();
                Some(http::empty(204))
            }
            (_, fault::TRAP) => Some(self.faults.hit()),
            _ => Some(http::empty(404)),
        }
    }

    /// The name in the request that can ask for a fault.
    fn name_asked_for(&self, service: Service, request: &Request) -> Option<String> {
        match service {
            Service::Connect => self.connect.name_asked_for(request),
            Service::Kms => kms::name_asked_for(request),
        }
    }

    fn answer(&self, service: Service, request: &Request) -> Response {
        match service {
            Service::Connect => self.connect.answer(request, &self.requests),
            Service::Kms => self.kms.answer(request),
        }
    }
}

impl Service {
    /// An error in the form in which this service reports one.
    fn error(self, status: u16, message: &str) -> Response {
        match self {
            Service::Connect => connect::error(status, message).into(),
            Service::Kms => google::Refusal::new(status, message).into(),
        }
    }
}
