//! The identity tokens of GitHub Actions: a job that may have them is given an address to ask, and what to show there.
//!
//! [GitHub's description](https://docs.github.com/en/actions/reference/security/oidc) is the source of the variables and shapes.

use std::sync::Arc;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{TOKEN_BYTES_MAX, Token, TokenError};
use crate::http_client::{self, innermost};
use crate::retry::Failure;
use crate::settings::{Audience, Permission, ServerUrl};
use crate::tls::TlsError;

const URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// Where this job can ask for a token.
pub(super) struct Endpoint {
    url: Url,
    request_token: Zeroizing<String>,
}

/// What it answers.
#[derive(Deserialize)]
struct TokenResponse {
    value: Zeroizing<String>,
}

impl Endpoint {
    /// Looks into the environment, where the runner leaves both if the workflow has the permission.
    pub(super) fn find() -> Result<Endpoint, TokenError> {
        let variable = |name| match std::env::var(name).map(Zeroizing::new) {
            Ok(value) if !value.is_empty() => Ok(value),
            _ => Err(TokenError::NoGithubVariable { name }),
        };
        let (text, request_token) = (variable(URL)?, variable(TOKEN)?);
        let url = Url::parse(&text).map_err(|_| TokenError::GithubUrl { name: URL })?;
        let mut base = url.clone();
        base.set_query(None);
        // Plain http is for stand-ins on this host.
        ServerUrl::parse(base.as_str(), Permission::Refuse).map_err(|_| TokenError::GithubUrl { name: URL })?;
        Ok(Endpoint { url, request_token })
    }

    /// Asks for a token for this audience.
    pub(super) async fn ask(&self, audience: &Audience) -> Result<Token, Failure<TokenError>> {
        let server = self.url.origin().ascii_serialization();
        let unreachable = |error: reqwest::Error| {
            let server = server.clone();
            match TlsError::of(&error) {
                Some(problem) => Failure::Final(TokenError::Tls { server, problem }),
                None => again(TokenError::Unreachable { server, cause: innermost(&error), tries: 1 }),
            }
        };
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("audience", audience.as_str());
        let text = Zeroizing::new(format!("Bearer {}", *self.request_token));
        let mut bearer = HeaderValue::from_str(&text).map_err(|_| Failure::Final(TokenError::NotALine))?;
        bearer.set_sensitive(true);
        let request = client(&url)?.get(url).header(AUTHORIZATION, bearer).header(ACCEPT, "application/json");
        let response = request.send().await.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(Failure::Final(TokenError::GithubRefused { server, status: status.as_u16() }));
            }
            status => {
                let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                let error = TokenError::Status { server, status: status.as_u16(), tries: 1 };
                return Err(if passing { again(error) } else { Failure::Final(error) });
            }
        }
        let body = http_client::read(response, TOKEN_BYTES_MAX).await.map_err(unreachable)?;
        let response = body.and_then(|body| serde_json::from_slice(&body).ok());
        let token = response.and_then(|TokenResponse { value }| Token::new(value.as_bytes()).ok());
        token.ok_or(Failure::Final(TokenError::NotGithub { server }))
    }
}

fn client(url: &Url) -> Result<Client, Failure<TokenError>> {
    let client = http_client::builder_for(url.scheme(), None);
    client.build().map_err(|error| Failure::Final(TokenError::NoClient { source: Arc::new(error) }))
}

fn again(error: TokenError) -> Failure<TokenError> {
    Failure::Transient { error, retry_after: None }
}
