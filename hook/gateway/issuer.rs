//! An issuer, and what is known of its keys.
//!
//! Its keys are asked for when a token needs one that is not known, and when what is known is older than [`FRESH`]. An answer replaces
//! all that is known: a key that is no longer in it is not believed any more. While there is no answer, what is known stays good until it
//! is as old as [`VALID`]. However many tokens there are, good or bad, one request is under way at a time, and they come no faster than
//! [`REFRESH_RATE`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use reqwest::{Certificate, Client, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::denial::Denial;
use super::key::Key;
use super::limit::Bucket;
use super::settings::{IssuerSettings, Signature};
use crate::fault::{Class, Fault};
use crate::http_client;
use crate::settings::{FileError, Permission, ServerUrl, file};

/// After this time keys are asked for again before one is used: so long is one believed that was withdrawn.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
/// After this time nothing is believed of keys that could not be asked for.
pub const VALID: Duration = Duration::from_secs(60 * 60);
/// How long known keys are used without asking an issuer that did not answer: not every token shall wait for it.
pub const AWAY: Duration = Duration::from_secs(30);
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
    /// When it did not answer, if it has not since.
    away: Cell<Option<Instant>>,
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
        let mut client =
            http_client::builder().user_agent(USER_AGENT).connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
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
            away: Cell::default(),
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
        let find = |keys: Rc<Keys>| keys.find(id, signature);
        if self.is_current()
            && let Some(key) = self.known().and_then(find)
        {
            return Ok(key);
        }
        // Of its own, so that it goes on for others when whoever asked first has gone away.
        let _ = tokio::task::spawn_local(Rc::clone(self).refresh(self.asked.get())).await;
        // Who is away may have it.
        let without = if self.away.get().is_some() { Denial::IssuerDown } else { Denial::UnknownKey };
        self.known().and_then(find).ok_or(without)
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

    /// Whether there is nothing newer to be known, as far as that can be told without asking.
    fn is_current(&self) -> bool {
        self.age().is_some_and(|age| age <= FRESH) || self.away.get().is_some_and(|since| since.elapsed() < AWAY)
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
            Ok(keys) => {
                if keys.is_empty() {
                    super::note(&format!("{} tells no key of a kind that is believed", self.settings.url));
                }
                self.away.set(None);
                *self.keys.borrow_mut() = Some(Rc::new(Keys { keys, told: Instant::now() }));
            }
            Err(error) => {
                self.away.set(Some(Instant::now()));
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
        let keys = Key::of_set(&set).ok_or(KeysError::NotJson)?;
        Ok(keys.into_iter().filter(is_used).map(Rc::new).collect())
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
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum IssuerError {
    /// The file of certificates.
    #[error("cannot use the certificates of an issuer")]
    File { source: FileError },
    /// The certificates in it.
    #[error("cannot use the certificates of an issuer")]
    Client { source: reqwest::Error },
}

impl Fault for IssuerError {
    fn class(&self) -> Class {
        match self {
            IssuerError::File { source } => source.class(),
            IssuerError::Client { .. } => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IssuerError::File { source } => source.hint(),
            IssuerError::Client { .. } => None,
        }
    }
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
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use serde_json::json;
    use tokio::task::LocalSet;
    use tokio::time;

    use super::*;

    /// What an issuer on loopback answers with, and how often it was asked.
    #[derive(Clone, Default)]
    struct Answer(Arc<Mutex<(u16, String, usize)>>);

    impl Answer {
        fn keys(&self, ids: &[&str]) {
            let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
            let key = |id: &&str| json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": id });
            self.set(200, json!({ "keys": ids.iter().map(key).collect::<Value>() }));
        }

        fn set(&self, status: u16, body: Value) {
            let mut answer = self.0.lock().unwrap();
            (answer.0, answer.1) = (status, body.to_string());
        }

        fn asked(&self) -> usize {
            self.0.lock().unwrap().2
        }

        /// Makes ready an issuer that answers with this.
        fn issuer(&self) -> Rc<Issuer> {
            crate::tls::install();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let answer = self.clone();
            thread::spawn(move || {
                for mut stream in listener.incoming().map(Result::unwrap) {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).unwrap();
                    let mut answer = answer.0.lock().unwrap();
                    answer.2 += 1;
                    let (status, body) = (answer.0, &answer.1);
                    let head =
                        format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
                    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
                }
            });
            let settings = json!({ "url": url, "audience": "a", "jwks-url": format!("{url}/keys") });
            Rc::new(Issuer::new(serde_json::from_value(settings).unwrap()).unwrap())
        }
    }

    /// What becomes of a token that is signed with this key.
    async fn ask(issuer: &Rc<Issuer>, id: &str) -> Result<(), Denial> {
        issuer.key(id, Signature::EdDsa).await.map(drop)
    }

    async fn pass(duration: Duration) {
        time::pause();
        time::advance(duration).await;
        time::resume();
    }

    fn block_on(work: impl Future<Output = ()>) {
        LocalSet::new().block_on(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), work);
    }

    #[test]
    fn a_key_that_is_gone_from_an_answer_is_not_believed_any_more() {
        block_on(async {
            let answer = Answer::default();
            let issuer = answer.issuer();
            answer.keys(&["a", "b"]);
            assert_eq!(ask(&issuer, "a").await, Ok(()));
            answer.keys(&["b"]);
            assert_eq!(ask(&issuer, "a").await, Ok(()), "it is not asked each time");
            pass(FRESH).await;
            assert_eq!(ask(&issuer, "a").await, Err(Denial::UnknownKey));
            assert_eq!(ask(&issuer, "b").await, Ok(()));
            answer.keys(&[]);
            pass(FRESH).await;
            assert_eq!(ask(&issuer, "b").await, Err(Denial::UnknownKey));
        });
    }

    #[test]
    fn known_keys_hold_for_a_while_without_an_answer_and_no_longer() {
        block_on(async {
            let answer = Answer::default();
            let issuer = answer.issuer();
            answer.keys(&["a"]);
            assert_eq!(ask(&issuer, "a").await, Ok(()));
            for (status, body) in [(503, json!({ "keys": [] })), (200, json!("keys")), (200, json!({ "error": "x" }))] {
                answer.set(status, body);
                pass(FRESH).await;
                assert_eq!(ask(&issuer, "a").await, Ok(()), "{status}");
            }
            let asked = answer.asked();
            assert_eq!(ask(&issuer, "a").await, Ok(()));
            assert_eq!(answer.asked(), asked, "not every token waits for who is away");
            pass(AWAY).await;
            assert_eq!(ask(&issuer, "a").await, Ok(()));
            assert_eq!(answer.asked(), asked + 1);
            assert_eq!(ask(&issuer, "new").await, Err(Denial::IssuerDown), "it may be one of its own");
            pass(VALID - 3 * FRESH).await;
            assert_eq!(ask(&issuer, "a").await, Err(Denial::IssuerDown));
            answer.keys(&["a"]);
            assert_eq!(ask(&issuer, "a").await, Ok(()), "it is back");
        });
    }
}
