//! Requests to 1Password Connect: who asks, how often, and what an answer is that cannot be used.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::activity;
use crate::http_client;
use crate::retry::{Deadline, Failure, GaveUp};
use crate::settings::{self, ServerUrl, Settings, file};
use crate::source::SourceError;
use crate::token::static_token::Shown;
use crate::token::{Token, TokenError, Tokens};

/// The most that is read of one answer. 1Password bounds an item well below it.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

const JSON: &str = "application/json";
const CA_BYTES_MAX: usize = 1024 * 1024;
const USER_AGENT: &str = concat!("oci-secrets/", env!("CARGO_PKG_VERSION"));

/// A 1Password Connect server and the tokens that it knows us by.
pub struct Connect {
    client: Client,
    tokens: Tokens,
    base: Url,
    /// The address as messages name it: without a path, and user-info cannot be in it.
    server: String,
    /// From which address the token was sent, once there was an answer.
    address: OnceLock<IpAddr>,
}

impl Connect {
    /// The server of these settings.
    ///
    /// # Errors
    /// As for [`Connect::open`], and if the settings have no `[connect]`.
    pub fn of(settings: &Settings) -> Result<Connect, SourceError> {
        Connect::open(settings.connect.as_ref().ok_or(SourceError::NoConnect)?)
    }

    /// Looks for the token, and reads the certificates if the settings name any, else takes the system's. Nothing is sent yet.
    ///
    /// # Errors
    /// If there will be no token, or the certificates cannot be used.
    pub fn open(settings: &settings::Connect) -> Result<Connect, SourceError> {
        Connect::new(&settings.url, Tokens::open(&settings.token).map_err(no_token)?, settings.ca_file.as_deref())
    }

    /// The same for a container's start, whose id goes with each request: Connect keeps the `User-Agent` in its account of what was
    /// asked of it, so that the account can be compared with ours ([`activity`]).
    ///
    /// # Errors
    /// As for [`Connect::open`].
    pub fn open_for(settings: &settings::Connect, start: &str) -> Result<Connect, SourceError> {
        let tokens = Tokens::open(&settings.token).map_err(no_token)?;
        Connect::new_as(&settings.url, tokens, settings.ca_file.as_deref(), &activity::user_agent_of(USER_AGENT, start))
    }

    /// Knows a server by its address, and shows it these tokens.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub fn new(url: &ServerUrl, tokens: Tokens, ca_file: Option<&Path>) -> Result<Connect, SourceError> {
        Connect::new_as(url, tokens, ca_file, USER_AGENT)
    }

    fn new_as(
        url: &ServerUrl,
        tokens: Tokens,
        ca_file: Option<&Path>,
        user_agent: &str,
    ) -> Result<Connect, SourceError> {
        let mut client = http_client::builder_for(url.as_url().scheme()).user_agent(user_agent);
        if let Some(path) = ca_file {
            let pem =
                file::read(path, file::Kind::Plain, CA_BYTES_MAX).map_err(|source| SourceError::File { source })?;
            let unusable = |error| SourceError::UnusableCertificates { source: Arc::new(error) };
            client = client.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(unusable)?);
        }
        let client = client.build().map_err(|error| SourceError::NoClient { source: Arc::new(error) })?;
        let base = url.as_url().clone();
        Ok(Connect { client, tokens, server: base.origin().ascii_serialization(), base, address: OnceLock::new() })
    }

    /// The server's address, as messages name it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The token by which Connect knows us now.
    ///
    /// # Errors
    /// If there is none.
    pub async fn token(&self, deadline: Deadline) -> Result<Arc<Token>, SourceError> {
        self.tokens.current(deadline).await.map_err(no_token)
    }

    /// The static token that Connect was shown, if it is one and there was an answer.
    pub(super) fn shown(&self) -> Option<Shown> {
        let (made, address) = (self.tokens.fixed()?, *self.address.get()?);
        Some(Shown { origin: self.tokens.origin().clone(), made, address: Some(address) })
    }

    /// Sends one GET below `/v1`, once and without a deadline, and gives back whatever is answered: for who passes answers on.
    ///
    /// # Errors
    /// If there is no token, or no answer.
    pub async fn send(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Response, SourceError> {
        let mut url = self.url(path, None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let token = self.tokens.get().await.map_err(|failure| no_token(failure.into_error()))?;
        let request = self.client.get(url).header(AUTHORIZATION, token.bearer().map_err(no_token)?);
        let lost = |_| SourceError::Unreachable { server: self.server.clone(), cause: "no answer".into(), tries: 1 };
        request.send().await.map_err(lost)
    }

    /// Reads what is at a path; `what` names it in errors.
    pub(in crate::source) async fn read<T: DeserializeOwned>(
        &self,
        path: &[&str],
        what: String,
        deadline: Deadline,
    ) -> Result<T, SourceError> {
        self.get(path, None, deadline).await.map_err(|refusal| self.error(refusal, what))
    }

    /// Sends a change, and reads what it made. What would be made twice is sent once, whatever becomes of it.
    pub(in crate::source) async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &Value,
        what: String,
        deadline: Deadline,
    ) -> Result<T, SourceError> {
        let body = Zeroizing::new(body.to_string());
        let bearer = self.bearer(deadline).await.map_err(no_token)?;
        let attempt = async || {
            let request = self.client.request(method.clone(), self.url(path, None)).header(CONTENT_TYPE, JSON);
            let request = request.header(AUTHORIZATION, bearer.clone());
            let response = request.body(body.as_bytes().to_vec()).send().await.map_err(broken)?;
            if response.status().is_success() { read(response).await } else { Err(refused(&response)) }
        };
        let sent = deadline
            .retry(async || match attempt().await {
                Err(Failure::Transient { error, .. }) if method == Method::POST => Err(Failure::Final(error)),
                outcome => outcome,
            })
            .await;
        let made = sent.map_err(Refusal::from).and_then(|body| parse(&body));
        made.map_err(|refusal| self.error(refusal, what))
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: Option<&str>,
        deadline: Deadline,
    ) -> Result<T, Refusal> {
        let body = self.ask(path, filter, deadline).await?;
        parse(&body)
    }

    /// Sends one GET, again where that can help, and reads the whole of a good answer.
    pub(super) async fn ask(
        &self,
        path: &[&str],
        filter: Option<&str>,
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.ask_url(&self.url(path, filter), deadline).await
    }

    async fn ask_url(&self, url: &Url, deadline: Deadline) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let bearer = self.bearer(deadline).await.map_err(Refusal::Token)?;
        let attempt = async || {
            let request = self.client.get(url.clone()).header(AUTHORIZATION, bearer.clone());
            let response = request.send().await.map_err(broken)?;
            if let Some(connection) = response.extensions().get::<HttpInfo>() {
                let _ = self.address.set(connection.local_addr().ip().to_canonical());
            }
            if response.status() != StatusCode::OK {
                return Err(refused(&response));
            }
            read(response).await
        };
        deadline.retry(attempt).await.map_err(Refusal::from)
    }

    /// Reads one page of a list that Connect hands out in pages.
    pub(in crate::source) async fn read_page<T: DeserializeOwned>(
        &self,
        path: &[&str],
        (offset, limit): (usize, usize),
        what: &str,
        deadline: Deadline,
    ) -> Result<Vec<T>, SourceError> {
        let mut url = self.url(path, None);
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).append_pair("offset", &offset.to_string());
        let page = self.ask_url(&url, deadline).await.and_then(|body| parse(&body));
        page.map_err(|refusal| self.error(refusal, what.to_owned()))
    }

    async fn bearer(&self, deadline: Deadline) -> Result<HeaderValue, TokenError> {
        self.tokens.current(deadline).await?.bearer()
    }

    fn url(&self, path: &[&str], filter: Option<&str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        if let Some(filter) = filter {
            url.query_pairs_mut().append_pair("filter", filter);
        }
        url
    }

    pub(super) fn error(&self, refusal: Refusal, what: String) -> SourceError {
        let server = self.server.clone();
        match refusal {
            Refusal::Token(error) => no_token(error),
            Refusal::Status { status: StatusCode::UNAUTHORIZED, .. } => {
                SourceError::Unauthorized { server, origin: self.tokens.origin().clone() }
            }
            Refusal::Status { status: StatusCode::FORBIDDEN, .. } => {
                SourceError::Forbidden { what, origin: self.tokens.origin().clone() }
            }
            Refusal::Status { status: StatusCode::TOO_MANY_REQUESTS, tries } => SourceError::Limited { server, tries },
            Refusal::Status { status, .. } if status.is_redirection() => {
                SourceError::Redirected { server, status: status.as_u16() }
            }
            Refusal::Status { status, tries } => SourceError::Status { server, status: status.as_u16(), tries },
            Refusal::NoAnswer { within, tries } => SourceError::NoAnswer { server, within, tries },
            Refusal::Broken { cause, tries } => SourceError::Unreachable { server, cause, tries },
            Refusal::TooLarge => SourceError::TooLarge { server, limit: ANSWER_BYTES_MAX },
            Refusal::NotConnect { line, column } => SourceError::NotConnect { server, line, column },
        }
    }
}

/// Why there is no usable answer to one request; what it means depends on what was asked for.
pub(super) enum Refusal {
    Token(TokenError),
    Status { status: StatusCode, tries: u32 },
    NoAnswer { within: Duration, tries: u32 },
    Broken { cause: String, tries: u32 },
    TooLarge,
    NotConnect { line: usize, column: usize },
}

impl From<GaveUp<Refusal>> for Refusal {
    fn from(GaveUp { tries, within, last }: GaveUp<Refusal>) -> Refusal {
        match last {
            None => Refusal::NoAnswer { within, tries },
            Some(Refusal::Status { status, .. }) => Refusal::Status { status, tries },
            Some(Refusal::Broken { cause, .. }) => Refusal::Broken { cause, tries },
            Some(other) => other,
        }
    }
}

/// What is wrong with a file of the settings is told in one way, whichever file it is.
fn no_token(error: TokenError) -> SourceError {
    match error {
        TokenError::File { source } => SourceError::File { source },
        source => SourceError::Token { source },
    }
}

/// A connection that could not be made or broke. A server whose certificate is wrong now will not have a better one at once.
///
/// Only the innermost cause is told: the outer ones say "error sending request" in three ways, and can hold the URL.
fn broken(error: reqwest::Error) -> Failure<Refusal> {
    let mut innermost: &(dyn std::error::Error + 'static) = &error;
    let mut for_good = false;
    loop {
        for_good |= innermost.is::<rustls::Error>();
        let inside_io = innermost.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        match inside_io.map(|inner| inner as &(dyn std::error::Error + 'static)).or(innermost.source()) {
            Some(cause) => innermost = cause,
            None => break,
        }
    }
    let refusal = Refusal::Broken { cause: innermost.to_string(), tries: 1 };
    if for_good { Failure::Final(refusal) } else { Failure::Transient { error: refusal, retry_after: None } }
}

fn refused(response: &Response) -> Failure<Refusal> {
    let status = response.status();
    let error = Refusal::Status { status, tries: 1 };
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Transient { error, retry_after: retry_after(response) }
        }
        _ if status.is_server_error() => Failure::Transient { error, retry_after: retry_after(response) },
        _ => Failure::Final(error),
    }
}

/// `Retry-After` in seconds. Its other form, a date, is not worth a parser: it is treated as if it were absent.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::NotConnect { line: e.line(), column: e.column() })
}

async fn read(mut response: Response) -> Result<Zeroizing<Vec<u8>>, Failure<Refusal>> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Final(Refusal::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
