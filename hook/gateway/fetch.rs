//! Requests to an issuer: its discovery document and its keys.

use std::time::Duration;

use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::Value;

use super::json;
use super::key::Key;
use super::log;
use super::settings::{IssuerSettings, Signature};
use crate::fault::{Class, Fault};
use crate::http_client;
use crate::settings::{AbsolutePath, FileError, Permission, ServerUrl, file};
use crate::tls::{self, CaFileError};

const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(5);
const USER_AGENT: &str = concat!("oci-secrets-gateway/", env!("CARGO_PKG_VERSION"));

/// The discovery document (OpenID Connect Discovery 1.0, section 3), as far as it is used.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    #[serde(default)]
    id_token_signing_alg_values_supported: Vec<String>,
}

/// The client for an issuer. Nothing is sent yet.
///
/// # Errors
/// If its certificates cannot be used.
pub fn client(settings: &IssuerSettings) -> Result<Client, IssuerError> {
    let authorities = |path: &AbsolutePath| {
        let pem =
            file::read(path, file::Kind::Plain, tls::CA_BYTES_MAX).map_err(|source| IssuerError::File { source })?;
        tls::authorities(path, &pem).map_err(|source| IssuerError::CaFile { source })
    };
    let authorities = settings.ca_file.as_ref().map(authorities).transpose()?;
    let client = http_client::builder_for("https", authorities).user_agent(USER_AGENT);
    let client = client.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
    client.build().map_err(|source| IssuerError::Client { source })
}

/// The keys of an issuer.
///
/// # Errors
/// It does not respond, or not with its keys.
pub async fn keys(client: &Client, settings: &IssuerSettings) -> Result<Vec<Key>, KeysError> {
    let (url, signatures) = match &settings.jwks_url {
        Some(url) => (url.as_url().clone(), None),
        None => discover(client, settings).await?,
    };
    let signatures = settings.algorithms.clone().or(signatures);
    let is_used = |key: &Key| signatures.as_ref().is_none_or(|used| used.contains(&key.signature));
    let keys = Key::of_set(&read(client, url).await?).ok_or(KeysError::NotJson)?;
    Ok(keys.into_iter().filter(is_used).collect())
}

/// Checks that an issuer calls itself as the settings do. What prevents the check, or is more than a spelling, is only reported: no
/// issuer can prevent a start for others.
///
/// # Errors
/// Its own name is spelt otherwise.
pub async fn check_name(client: &Client, settings: &IssuerSettings) -> Result<(), IssuerError> {
    let bare = |url: &str| url.trim_end_matches('/').to_lowercase();
    match discover(client, settings).await {
        Ok(_) => {}
        Err(KeysError::OtherIssuer { found }) if bare(&found) == bare(&settings.url) => {
            return Err(IssuerError::Name { url: settings.url.clone(), found });
        }
        // Its keys come from elsewhere: it may have no such document.
        Err(_) if settings.jwks_url.is_some() => {}
        Err(error) => log::note(&format!("cannot check the issuer {}: {error}", settings.url)),
    }
    Ok(())
}

/// The address of its keys, and the algorithms that they are for.
async fn discover(client: &Client, settings: &IssuerSettings) -> Result<(Url, Option<Vec<Signature>>), KeysError> {
    let issuer = settings.url.trim_end_matches('/');
    let url = Url::parse(&format!("{issuer}/.well-known/openid-configuration")).map_err(|_| KeysError::Elsewhere)?;
    let document = read(client, url.clone()).await?;
    let document: Discovery = serde_json::from_value(document).map_err(|_| KeysError::NotJson)?;
    if document.issuer != settings.url {
        return Err(KeysError::OtherIssuer { found: document.issuer });
    }
    let keys = ServerUrl::parse(&document.jwks_uri, Permission::Refuse).map_err(|_| KeysError::Elsewhere)?;
    if keys.as_url().origin() != url.origin() {
        return Err(KeysError::Elsewhere);
    }
    let signatures = document.id_token_signing_alg_values_supported;
    Ok((keys.as_url().clone(), Some(signatures.iter().filter_map(|name| Signature::named(name)).collect())))
}

async fn read(client: &Client, url: Url) -> Result<Value, KeysError> {
    let unreachable = |error: reqwest::Error| match error.is_timeout() {
        true => KeysError::NoAnswer,
        false => KeysError::Unreachable,
    };
    let response = client.get(url).send().await.map_err(unreachable)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(KeysError::Status { status: response.status().as_u16() });
    }
    let body = http_client::read(response, DOCUMENT_BYTES_MAX).await.map_err(unreachable)?;
    let body = body.ok_or(KeysError::TooLarge)?;
    json::parse(&body).map_err(|_| KeysError::NotJson)
}

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum IssuerError {
    /// The certificate file.
    #[error("cannot use the certificates of an issuer")]
    File { source: FileError },
    /// The certificates in it.
    #[error("cannot use the certificates of an issuer")]
    CaFile { source: CaFileError },
    /// The HTTP client cannot be made.
    #[error("cannot prepare TLS")]
    Client { source: reqwest::Error },
    /// Its tokens have another `iss` than the settings expect, so none would be accepted.
    #[error("the issuer at {url:.120?} calls itself {found:.120?}")]
    Name { url: String, found: String },
}

impl Fault for IssuerError {
    fn class(&self) -> Class {
        match self {
            IssuerError::File { source } => source.class(),
            IssuerError::CaFile { source } => source.class(),
            IssuerError::Client { .. } | IssuerError::Name { .. } => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IssuerError::File { source } => source.hint(),
            IssuerError::CaFile { source } => source.hint(),
            IssuerError::Client { .. } => None,
            IssuerError::Name { found, .. } => Some(format!("url = {found:.120?}")),
        }
    }
}

/// Why an issuer's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum KeysError {
    /// No connection.
    #[error("no connection")]
    Unreachable,
    /// Too slow.
    #[error("no response within {} s", TIMEOUT.as_secs())]
    NoAnswer,
    /// An HTTP error.
    #[error("it responded with {status}")]
    Status { status: u16 },
    /// More than any issuer has.
    #[error("it responded with more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// Not JSON, JSON with a repeated name, or not of an issuer.
    #[error("its response is not the JSON of an issuer, or repeats a name in an object")]
    NotJson,
    /// The document of another issuer, whose keys must not be used for this one.
    #[error("its discovery document is that of {found:.120?}")]
    OtherIssuer { found: String },
    /// Keys on another server than the one that the settings name.
    #[error("its discovery document refers to keys on another server; if that is intended, set jwks-url")]
    Elsewhere,
}
