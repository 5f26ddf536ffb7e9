//! The HTTP client of this project: names resolved in this process, ring for TLS, no redirection, no proxy.
//!
//! A redirection would carry a token to another server. Proxies are not supported but by the command, towards Google: the environment,
//! which names them, is not read. The program has installed the provider of TLS ([`crate::tls::install`]) before it makes a client.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, Response, redirect};
use zeroize::Zeroizing;

use crate::dns::{self, Resolver};
use crate::errno::Errno;
use crate::tls;

/// How long a request waits for HTTP/2 before the connection is tested by a ping, and how long for the answer to the ping. Without it, all
/// tries of a long-lived process would wait on one connection that the network has lost.
const PING_AFTER: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A client for one server, which trusts these authorities, or those of the system; for plain `http` it reads no certificates, which a
/// host may not have.
pub fn builder_for(scheme: &str, authorities: Option<Vec<Certificate>>) -> ClientBuilder {
    builder_by_proxy(scheme, authorities).no_proxy()
}

/// The same through the proxy that the environment names: of the command, as the hook and the broker have dropped theirs.
pub fn builder_by_proxy(scheme: &str, authorities: Option<Vec<Certificate>>) -> ClientBuilder {
    #[expect(clippy::disallowed_methods, reason = "here it gets its resolver")]
    let builder = reqwest::Client::builder()
        .dns_resolver(Resolver::default())
        .redirect(redirect::Policy::none())
        .http2_keep_alive_interval(PING_AFTER)
        .http2_keep_alive_timeout(PING_TIMEOUT);
    if scheme == "http" {
        return builder.tls_certs_only([]);
    }
    match authorities.or_else(tls::system_authorities) {
        Some(authorities) => builder.tls_certs_only(authorities),
        // The library searches elsewhere, and says so if there is nothing.
        None => builder,
    }
}

/// Reads the body of an answer; `None` if it is larger than this. A server could send without end.
///
/// # Errors
/// The connection broke.
pub async fn read(mut response: Response, bytes_max: usize) -> reqwest::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The innermost cause of an error. The outer ones say "error sending request" in three ways, and can hold the URL.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(cause) = dns::cause(innermost) {
            return cause.to_owned();
        }
        let io = innermost.downcast_ref::<io::Error>();
        if let Some(errno) = io.and_then(io::Error::raw_os_error) {
            return Errno::from(rustix::io::Errno::from_raw_os_error(errno)).to_string();
        }
        let inside = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        match inside.or(innermost.source()) {
            Some(cause) => innermost = cause,
            None => return innermost.to_string(),
        }
    }
}
