//! The metadata server of Google's machines, which has access tokens of their service account.
//!
//! Google's own client of it makes an HTTP client for each request. Each of these reads all CA certificates of the system, though the
//! server has no TLS.

use std::time::{Duration, Instant};

use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::http_client;

/// Its address.
pub(super) const METADATA_SERVER: &str = "http://metadata.google.internal";

const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A client of the metadata server, with the access token that it had last.
#[derive(Debug)]
pub(super) struct MetadataServer {
    url: &'static str,
    client: Client,
    token: Mutex<Option<Token>>,
}

/// An access token, as the headers of a request.
#[derive(Clone, Debug)]
struct Token {
    tag: EntityTag,
    headers: HeaderMap,
    renewal: Instant,
    expiry: Instant,
}

/// What the server answers.
#[derive(Deserialize)]
struct TokenResponse {
    access_token: Zeroizing<String>,
    token_type: String,
    /// In seconds.
    expires_in: u32,
}

impl MetadataServer {
    /// Makes the client. Nothing is sent.
    ///
    /// # Errors
    /// The client cannot be made.
    pub(super) fn new() -> reqwest::Result<MetadataServer> {
        MetadataServer::at(METADATA_SERVER)
    }

    fn at(url: &'static str) -> reqwest::Result<MetadataServer> {
        Ok(MetadataServer { url, client: http_client::builder_for("http", None).build()?, token: Mutex::default() })
    }

    /// The token, which is fetched again after three quarters of its lifetime. If that fails, it is used until it expires.
    async fn token(&self) -> Result<Token, CredentialsError> {
        let mut token = self.token.lock().await;
        let now = Instant::now();
        if let Some(token) = token.as_ref().filter(|token| now < token.renewal) {
            return Ok(token.clone());
        }
        match self.fetch().await {
            Ok(fetched) => Ok(token.insert(fetched).clone()),
            Err(error) => token.as_ref().filter(|token| Instant::now() < token.expiry).cloned().ok_or(error),
        }
    }

    async fn fetch(&self) -> Result<Token, CredentialsError> {
        let now = Instant::now();
        let answer = self.get(TOKEN_PATH).await?;
        let response: TokenResponse = serde_json::from_slice(&answer).map_err(|_| unusable())?;
        let text = Zeroizing::new(format!("{} {}", response.token_type, *response.access_token));
        let mut authorization = HeaderValue::from_str(&text).map_err(|_| unusable())?;
        authorization.set_sensitive(true);
        let lifetime = Duration::from_secs(response.expires_in.into());
        Ok(Token {
            tag: EntityTag::new(),
            headers: HeaderMap::from_iter([(AUTHORIZATION, authorization)]),
            renewal: now + lifetime * 3 / 4,
            expiry: now + lifetime,
        })
    }

    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
        let request = self.client.get(format!("{}{path}", self.url)).header(FLAVOR, "Google");
        let response = request.send().await.and_then(Response::error_for_status).map_err(failed)?;
        http_client::read(response, ANSWER_BYTES_MAX).await.map_err(failed)?.ok_or_else(unusable)
    }
}

impl CredentialsProvider for MetadataServer {
    async fn headers(&self, _: http::Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let Token { tag, headers, .. } = self.token().await?;
        Ok(CacheableResource::New { entity_tag: tag, data: headers })
    }

    async fn universe_domain(&self) -> Option<String> {
        // The settings name the server.
        None
    }
}

/// Whether another try may help, as Google's client decides it.
fn failed(error: reqwest::Error) -> CredentialsError {
    let may_pass = |status: StatusCode| {
        status.is_server_error() || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
    };
    CredentialsError::from_source(error.status().is_none_or(may_pass), error)
}

fn unusable() -> CredentialsError {
    CredentialsError::from_msg(false, "the metadata server answers with something else than a token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_used_until_it_expires_if_the_server_does_not_answer() {
        crate::tls::install();
        // Nothing listens there.
        let server = MetadataServer::at("http://127.0.0.1:1").unwrap();
        assert!(server.token().await.is_err());
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        for (expiry, is_used) in [(now + minute, true), (now, false)] {
            let token = Token { tag: EntityTag::new(), headers: HeaderMap::new(), renewal: now, expiry };
            *server.token.lock().await = Some(token);
            assert_eq!(server.token().await.is_ok(), is_used);
        }
    }
}
