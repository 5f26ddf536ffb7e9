//! Requests to 1Password Connect: who asks, and how often.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::ids::Ids;
use super::response::{ANSWER_BYTES_MAX, RequestError, broken, is_transient, parse, read, refused};
use super::user_agent;
use crate::http_client;
use crate::retry::Deadline;
use crate::settings::{self, ServerUrl, Settings, file};
use crate::source::SourceError;
use crate::tls;
use crate::token::static_token::Shown;
use crate::token::{Origin, Token, TokenError, Tokens};

const JSON: &str = "application/json";

/// A 1Password Connect server and the tokens that it accepts. Clones share its connections.
#[derive(Clone)]
pub struct Connect {
    client: Client,
    tokens: Arc<Tokens>,
    base: Url,
    /// The address as messages name it: without a path, and user-info cannot be in it.
    server: String,
    user_agent: HeaderValue,
    /// From which address the token was sent, once there was an answer.
    address: Arc<OnceLock<IpAddr>>,
    pub(super) ids: Arc<Ids>,
    /// The number of requests for values that were sent.
    sent: Arc<AtomicU64>,
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
        Connect::new(&settings.url, tokens(settings)?, settings.ca_file.as_deref())
    }

    /// The same for a container's start: [`Connect::for_start`].
    ///
    /// # Errors
    /// As for [`Connect::open`].
    pub fn open_for(settings: &settings::Connect, start: &str) -> Result<Connect, SourceError> {
        Ok(Connect::open(settings)?.for_start(start))
    }

    /// The server, asked for a container's start, whose id goes with each request: Connect keeps the `User-Agent` in its account of what
    /// was asked of it, so that the account can be compared with ours ([`super::activity`]).
    #[must_use]
    pub fn for_start(&self, start: &str) -> Connect {
        Connect { user_agent: user_agent::with_start(start), ..self.clone() }
    }

    /// New connections in place of those of another client, whose ids and count of requests they continue.
    #[must_use]
    pub fn after(self, before: &Connect) -> Connect {
        Connect { ids: before.ids.clone(), sent: before.sent.clone(), ..self }
    }

    /// Knows a server by its address, and shows it these tokens.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub fn new(url: &ServerUrl, tokens: Tokens, ca_file: Option<&Path>) -> Result<Connect, SourceError> {
        let authorities = |path: &Path| {
            let pem = file::read(path, file::Kind::Plain, tls::CA_BYTES_MAX)
                .map_err(|source| SourceError::File { source })?;
            tls::authorities(path, &pem).map_err(|source| SourceError::CaFile { source })
        };
        let authorities = ca_file.map(authorities).transpose()?;
        let client = http_client::builder_for(url.as_url().scheme(), authorities);
        let base = url.as_url().clone();
        Ok(Connect {
            client: client.build().map_err(|error| SourceError::NoClient { source: Arc::new(error) })?,
            tokens: Arc::new(tokens),
            server: base.origin().ascii_serialization(),
            base,
            user_agent: user_agent::of_commands(),
            address: Arc::default(),
            ids: Arc::default(),
            sent: Arc::default(),
        })
    }

    /// The server's address, as messages name it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How many requests were sent to read, by this client and its clones.
    pub fn requests_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The error of a call that waited for an answer to another call's request.
    pub(super) fn no_answer(&self, deadline: Deadline) -> SourceError {
        SourceError::NoAnswer { server: self.server.clone(), within: deadline.total(), tries: 1 }
    }

    /// The token that is sent to Connect now.
    ///
    /// # Errors
    /// If there is none.
    pub async fn token(&self, deadline: Deadline) -> Result<Arc<Token>, SourceError> {
        self.tokens.current(deadline).await.map_err(|error| self.no_token(error))
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
        let token = self.tokens.get().await.map_err(|failure| self.no_token(failure.into_error()))?;
        let bearer = token.bearer().map_err(|error| self.no_token(error))?;
        let request = self.request(Method::GET, url).header(AUTHORIZATION, bearer);
        let lost = |error| self.error(broken(error).into_error(), String::new());
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

    /// Sends a change, once: Connect may have stored it even if it answers with an error, late, or not at all.
    pub(in crate::source) async fn write(
        &self,
        method: Method,
        path: &[&str],
        body: &Value,
        what: String,
        deadline: Deadline,
    ) -> Result<(), WriteError> {
        let body = Zeroizing::new(body.to_string());
        let bearer = self.bearer(deadline).await.map_err(|error| WriteError::Refused(self.no_token(error)))?;
        let attempt = async || {
            let request = self.request(method.clone(), self.url(path, None)).header(CONTENT_TYPE, JSON);
            let request = request.header(AUTHORIZATION, bearer.clone());
            let response = request.body(body.as_bytes().to_vec()).send().await.map_err(broken)?;
            if response.status().is_success() { Ok(()) } else { Err(refused(response).await) }
        };
        // The rest of the time is for reading what was stored.
        let sent = deadline.send_once(deadline.remaining() / 2, attempt).await;
        sent.map_err(|gave_up| {
            let is_certain = match &gave_up.last {
                Some(RequestError::Status { status, .. }) => status.is_client_error() && !is_transient(*status),
                Some(RequestError::Tls(_)) => true,
                _ => gave_up.tries == 0,
            };
            let error = self.error(RequestError::from(gave_up), what.clone());
            if is_certain { WriteError::Refused(error) } else { WriteError::Uncertain(error) }
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: Option<&str>,
        deadline: Deadline,
    ) -> Result<T, RequestError> {
        let body = self.ask(path, filter, deadline).await?;
        parse(&body)
    }

    /// Sends one GET, again where that can help, and reads the whole of a good answer.
    pub(super) async fn ask(
        &self,
        path: &[&str],
        filter: Option<&str>,
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, RequestError> {
        self.ask_url(&self.url(path, filter), deadline).await
    }

    async fn ask_url(&self, url: &Url, deadline: Deadline) -> Result<Zeroizing<Vec<u8>>, RequestError> {
        let bearer = self.bearer(deadline).await.map_err(RequestError::Token)?;
        let attempt = async || {
            let request = self.request(Method::GET, url.clone()).header(AUTHORIZATION, bearer.clone());
            self.sent.fetch_add(1, Ordering::Relaxed);
            let response = request.send().await.map_err(broken)?;
            if let Some(connection) = response.extensions().get::<HttpInfo>() {
                let _ = self.address.set(connection.local_addr().ip().to_canonical());
            }
            if response.status() != StatusCode::OK {
                return Err(refused(response).await);
            }
            read(response).await
        };
        deadline.retry(attempt).await.map_err(RequestError::from)
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

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url).header(USER_AGENT, self.user_agent.clone())
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

    fn no_token(&self, error: TokenError) -> SourceError {
        no_token(error, self.tokens.origin().clone())
    }

    pub(super) fn error(&self, refusal: RequestError, what: String) -> SourceError {
        let server = self.server.clone();
        match refusal {
            RequestError::Token(error) => self.no_token(error),
            RequestError::Status { status: StatusCode::UNAUTHORIZED, message, .. } => {
                SourceError::Unauthorized { server, message, origin: self.tokens.origin().clone() }
            }
            RequestError::Status { status: StatusCode::FORBIDDEN, .. } => {
                SourceError::Forbidden { what, origin: self.tokens.origin().clone() }
            }
            RequestError::Status { status: StatusCode::TOO_MANY_REQUESTS, tries, .. } => {
                SourceError::Limited { server, tries }
            }
            RequestError::Status { status, .. } if status.is_redirection() => {
                SourceError::Redirected { server, status: status.as_u16() }
            }
            RequestError::Status { status, tries, message } => {
                SourceError::Status { server, status: status.as_u16(), tries, message }
            }
            RequestError::NoAnswer { within, tries } => SourceError::NoAnswer { server, within, tries },
            RequestError::NoConnection { cause, within } => SourceError::Unreachable { server, cause, within },
            RequestError::Broken { cause, tries } => SourceError::Broken { server, cause, tries },
            RequestError::Tls(problem) => SourceError::Tls { server, problem },
            RequestError::Undecodable { line, column } => SourceError::Undecodable { what, line, column },
            RequestError::TooLarge => SourceError::TooLarge { server, limit: ANSWER_BYTES_MAX },
            RequestError::NotConnect { line, column } => SourceError::NotConnect { server, line, column },
        }
    }
}

/// Why a change is not known to be stored.
pub(in crate::source) enum WriteError {
    /// It is not stored.
    Refused(SourceError),
    /// It may be stored, or will be.
    Uncertain(SourceError),
}

fn tokens(settings: &settings::Connect) -> Result<Tokens, SourceError> {
    Tokens::open(&settings.token).map_err(|error| no_token(error, Origin::of(&settings.token)))
}

/// Problems with all files that the settings name are reported in the same way.
fn no_token(error: TokenError, origin: Origin) -> SourceError {
    match error {
        TokenError::File { source } => SourceError::TokenFile { source, origin },
        source => SourceError::Token { source },
    }
}
