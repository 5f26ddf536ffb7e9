//! The HTTP client of this project: names resolved in this process, ring for TLS, no redirection, no proxy.
//!
//! A redirection would carry a token to another server. Proxies are not supported: the environment, which names them, is not read.

use reqwest::{ClientBuilder, redirect};

use crate::dns::Resolver;
use crate::tls;

/// A client for servers that are known by `https`.
pub fn builder() -> ClientBuilder {
    tls::install();
    #[expect(clippy::disallowed_methods, reason = "here it gets its resolver")]
    let builder = reqwest::Client::builder();
    builder.dns_resolver(Resolver::default()).redirect(redirect::Policy::none()).no_proxy()
}

/// A client for one server; for plain `http` it reads no certificates, which a host may not have.
pub fn builder_for(scheme: &str) -> ClientBuilder {
    match scheme {
        "http" => builder().tls_certs_only([]),
        _ => builder(),
    }
}
