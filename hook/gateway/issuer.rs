//! An issuer, and what is known of its keys.
//!
//! Its keys are asked for when a token needs one that is not known, and again every [`FRESH`]. What is known stays good for
//! [`VALID`] while the issuer is away. However many tokens there are, good or bad, one request is under way at a time, and they come no
//! faster than [`REFRESH_RATE`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use super::denial::Denial;
use super::key::Key;
use super::limit::Bucket;
use super::settings::{IssuerSettings, Signature};
use crate::settings::{FileError, Permission, ServerUrl, file};

/// After this time keys are asked for again, while the known ones are still used: one that was withdrawn goes.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
/// After this time nothing is believed of keys that could not be asked for.
pub const VALID: Duration = Duration::from_secs(60 * 60);
/// How often a second keys are asked for over time, after [`REFRESH_BURST`] at once.
pub const REFRESH_RATE: f64 = 0.1;
/// How often keys are asked for at once.
pub const REFRESH_BURST: f64 = 3.0;

const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
const CA_BYTES_MAX: usize = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(5);
const USER_AGENT: &str = concat!("oci-secrets-gateway/", env!("CARGO_PKG_VERSION"));

/// An issuer whose tokens are believed.
pub struct Issuer {
    /// What the settings say of it.
    pub settings: IssuerSettings,
    client: Client,
    keys: RefCell<Option<Rc<Keys>>>,
    /// Counts the times that keys were asked for.
    asked: Cell<u64>,
    failed: Cell<u64>,
    refreshes: RefCell<Bucket>,
    refreshing: Mutex<()>,
}

/// The keys of an issuer, as it told them once.
struct Keys {
    keys: Vec<Rc<Key>>,
    told: Instant,
}

impl Keys {
    fn find(&self, id: &str, signature: Signature) -> Option<Rc<Key>> {
        self.keys.iter().find(|key| key.id == id && key.signature == signature).cloned()
    }
}

/// The discovery document (OpenID Connect Discovery 1.0, section 3), as far as it is used.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    #[serde(default)]
    id_token_signing_alg_values_supported: Vec<String>,
}

impl Issuer {
    /// Makes ready to ask it. Nothing is sent yet.
    ///
    /// # Errors
    /// If its certificates cannot be used.
    pub fn new(settings: IssuerSettings) -> Result<Issuer, IssuerError> {
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy();
        if let Some(path) = &settings.ca_file {
            let pem =
                file::read(path, file::Kind::Plain, CA_BYTES_MAX).map_err(|source| IssuerError::File { source })?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|source| IssuerError::Client { source })?;
            client = client.tls_certs_only(certificates);
        }
        Ok(Issuer {
            client: client.build().map_err(|source| IssuerError::Client { source })?,
            settings,
            keys: RefCell::default(),
            asked: Cell::default(),
            failed: Cell::default(),
            refreshes: RefCell::new(Bucket::full(REFRESH_BURST)),
            refreshing: Mutex::default(),
        })
    }

    /// The key of this id, for this kind of signature.
    ///
    /// # Errors
    /// The issuer has none, or cannot be asked.
    pub async fn key(self: &Rc<Issuer>, id: &str, signature: Signature) -> Result<Rc<Key>, Denial> {
        let find = |keys: &Rc<Keys>| keys.find(id, signature);
        match self.known() {
            Some(keys) if find(&keys).is_some() => {
                if keys.told.elapsed() > FRESH {
                    tokio::task::spawn_local(Rc::clone(self).refresh(self.asked.get()));
                }
                find(&keys)
            }
            _ => {
                // Of its own, so that it goes on for others when whoever asked first has gone away.
                let _ = tokio::task::spawn_local(Rc::clone(self).refresh(self.asked.get())).await;
                self.known().ok_or(Denial::IssuerDown)?.find(id, signature)
            }
        }
        .ok_or(Denial::UnknownKey)
    }

    /// The number of times that keys were asked for, and of those that this failed.
    pub fn requests(&self) -> (u64, u64) {
        (self.asked.get(), self.failed.get())
    }

    /// How old what is known of the keys is.
    pub fn age(&self) -> Option<Duration> {
        self.keys.borrow().as_ref().map(|keys| keys.told.elapsed())
    }

    fn known(&self) -> Option<Rc<Keys>> {
        self.keys.borrow().clone().filter(|keys| keys.told.elapsed() < VALID)
    }

    /// Asks for the keys, unless somebody has since `asked` was so many, or it has been done too often.
    async fn refresh(self: Rc<Issuer>, asked: u64) {
        let _turn = self.refreshing.lock().await;
        if self.asked.get() != asked || !self.refreshes.borrow_mut().take(REFRESH_RATE, REFRESH_BURST) {
            return;
        }
        let outcome = self.ask().await;
        self.asked.set(asked + 1);
        match outcome {
            Ok(keys) => *self.keys.borrow_mut() = Some(Rc::new(Keys { keys, told: Instant::now() })),
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                super::note(&format!("cannot ask {} for its keys: {error}", self.settings.url));
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Rc<Key>>, KeysError> {
        let (url, signatures) = match &self.settings.jwks_url {
            Some(url) => (url.as_url().clone(), None),
            None => self.discover().await?,
        };
        let signatures = self.settings.algorithms.clone().or(signatures);
        let set: Value = self.read(url).await?;
        let is_used = |key: &Key| signatures.as_ref().is_none_or(|used| used.contains(&key.signature));
        let keys: Vec<Rc<Key>> = Key::of_set(&set).into_iter().filter(is_used).map(Rc::new).collect();
        if keys.is_empty() { Err(KeysError::NoKeys) } else { Ok(keys) }
    }

    /// Where its keys are, and what they are for.
    async fn discover(&self) -> Result<(Url, Option<Vec<Signature>>), KeysError> {
        let issuer = self.settings.url.trim_end_matches('/');
        let url =
            Url::parse(&format!("{issuer}/.well-known/openid-configuration")).map_err(|_| KeysError::Elsewhere)?;
        let document: Discovery = self.read(url.clone()).await?;
        if document.issuer != self.settings.url {
            return Err(KeysError::OtherIssuer);
        }
        let keys = ServerUrl::parse(&document.jwks_uri, Permission::Refuse).map_err(|_| KeysError::Elsewhere)?;
        if keys.as_url().origin() != url.origin() {
            return Err(KeysError::Elsewhere);
        }
        let signatures = document.id_token_signing_alg_values_supported;
        Ok((keys.as_url().clone(), Some(signatures.iter().filter_map(|name| Signature::named(name)).collect())))
    }

    async fn read<T: DeserializeOwned>(&self, url: Url) -> Result<T, KeysError> {
        let unreachable = |error: reqwest::Error| match error.is_timeout() {
            true => KeysError::NoAnswer,
            false => KeysError::Unreachable,
        };
        let mut response = self.client.get(url).send().await.map_err(unreachable)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(KeysError::Status { status: response.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > DOCUMENT_BYTES_MAX {
                return Err(KeysError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| KeysError::NotJson)
    }
}

/// Why an issuer cannot be asked for anything.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The file of certificates.
    #[error("cannot use the certificates of an issuer")]
    File {
        /// What is wrong with it.
        source: FileError,
    },
    /// The certificates in it.
    #[error("cannot use the certificates of an issuer")]
    Client {
        /// The library's account.
        source: reqwest::Error,
    },
}

/// Why an issuer's keys are not known.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("it cannot be reached")]
    Unreachable,
    #[error("it did not answer within {} s", TIMEOUT.as_secs())]
    NoAnswer,
    #[error("it answered {status}")]
    Status { status: u16 },
    #[error("it answered with more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it did not answer with the JSON of an issuer")]
    NotJson,
    #[error("its discovery document is that of another issuer")]
    OtherIssuer,
    #[error("its discovery document leads to keys on another server, which jwks-url could name")]
    Elsewhere,
    #[error("it has no keys of a kind that is believed")]
    NoKeys,
}
