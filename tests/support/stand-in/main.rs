//! A stand-in on loopback for the services that tests cannot use: 1Password Connect, Google Cloud KMS, the errors of AWS KMS, Google's
//! identity endpoints and its metadata server, the issuers of identity tokens of GitHub, GitLab and Kubernetes, and the API server of
//! Kubernetes.
//!
//! It prints one line of JSON with its addresses and Connect tokens when it is ready, and ends with its standard input, so that it
//! cannot outlive the process that started it. It keeps everything in memory and starts with the same [`connect::world`] every time.
//!
//! Faults are selected by name ([`fault`]): a title that is looked up, an item of the vault `Faults`, a KMS key, an account.
//! Every address also answers, without a token, `GET /stand-in/requests` (the log), `GET /stand-in/hits` (the number of followed
//! redirects) and `POST /stand-in/reset`. `POST /stand-in/authority` returns the authority of Connect's next certificate, which
//! `POST /stand-in/certificate` puts to use.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a stand-in that cannot continue should fail immediately"
)]

mod aws_kms;
mod connect;
mod fault;
mod file;
mod google;
mod http;
mod identity;
mod kms;
mod kubernetes;
mod requests;
mod services;
mod tls;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use connect::token;
use identity::{Identity, issuer};
use serde_json::json;
use services::{Service, StandIn};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Stands in on loopback for 1Password Connect and Google Cloud.
#[derive(Parser)]
struct Arguments {
    /// Write the files that clients read (tokens, credentials, the certificate authority) into this directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Use https, with a certificate of the CA that is written to `ca.pem`
    #[arg(long, requires = "dir")]
    tls: bool,
    /// Use https with an expired certificate
    #[arg(long, requires = "dir")]
    tls_expired: bool,
    /// Delay every response by this number of milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// Port of 1Password Connect; 0 selects a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    connect_port: u16,
    /// Port of Cloud KMS; 0 selects a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    kms_port: u16,
    /// Port of Google's identity endpoints; 0 selects a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    identity_port: u16,
    /// Port of the issuers of identity tokens; 0 selects a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    issuers_port: u16,
    /// Address of the metadata server, for which a network namespace can have the real one, 169.254.169.254:80
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    metadata: SocketAddr,
    /// The fault of every response of the metadata server
    #[arg(long, value_name = "NAME")]
    metadata_fault: Option<String>,
    /// Require tokens of the identity endpoints for Cloud KMS
    #[arg(long)]
    kms_auth: bool,
    /// Also write `service-account.json`, with a new RSA key from the `openssl` command
    #[arg(long, requires = "dir")]
    service_account: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connect = TcpListener::bind(loopback(arguments.connect_port)).await?;
    let kms = TcpListener::bind(loopback(arguments.kms_port)).await?;
    let identity = TcpListener::bind(loopback(arguments.identity_port)).await?;
    let issuers = TcpListener::bind(loopback(arguments.issuers_port)).await?;
    let kubernetes_api = TcpListener::bind(loopback(0)).await?;
    let metadata = TcpListener::bind(arguments.metadata).await?;

    let tls = match &arguments.dir {
        Some(dir) if arguments.tls || arguments.tls_expired => Some(tls::acceptor(dir, arguments.tls_expired)?),
        _ => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = |listener: &TcpListener| Ok::<_, io::Error>(format!("{scheme}://{}", listener.local_addr()?));
    let ready = json!({
        "connect": url(&connect)?,
        "kms": url(&kms)?,
        "identity": url(&identity)?,
        "issuers": url(&issuers)?,
        "id_token_request_token": issuer::REQUEST_TOKEN,
        "kubernetes": url(&kubernetes_api)?,
        "kubernetes_token": kubernetes::BROKER,
        "kubernetes_admin_token": kubernetes::ADMIN,
        "metadata": format!("http://{}", metadata.local_addr()?),
        "dir": arguments.dir,
        "token": token::GOOD.encode(),
        "limited_token": token::LIMITED.encode(),
        "expired_token": token::EXPIRED.encode(),
    });
    let stand_in = Arc::new(StandIn {
        latency: Duration::from_millis(arguments.latency),
        kms_auth: arguments.kms_auth,
        metadata_fault: arguments.metadata_fault.clone(),
        identity: write_files(&arguments, &url(&identity)?)?,
        issuers: issuer::Issuers::at(url(&issuers)?),
        ..StandIn::default()
    });
    for (listener, tls, service) in [
        (connect, tls.clone(), Service::Connect),
        (kms, tls.clone(), Service::Kms),
        (identity, tls.clone(), Service::Identity),
        (issuers, tls.clone(), Service::Issuers),
        (kubernetes_api, tls, Service::Kubernetes),
        (metadata, None, Service::Metadata),
    ] {
        tokio::spawn(http::serve(listener, tls, service, Arc::clone(&stand_in)));
    }

    writeln!(io::stdout(), "{ready}")?;
    wait_for_the_end().await?;
    // Not by returning: the thread that reads standard input would be waited for.
    std::process::exit(0)
}

/// Writes the files for clients into the directory, if there is one, and returns the identity that matches them.
fn write_files(arguments: &Arguments, identity_url: &str) -> io::Result<Identity> {
    let mut identity = Identity::default();
    if let Some(dir) = &arguments.dir {
        token::write_files(dir)?;
        identity::files::write(dir, identity_url)?;
        if arguments.service_account {
            identity.key = Some(identity::files::write_service_account(dir, identity_url)?);
        }
    }
    Ok(identity)
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
