//! An issuer and the cache of its keys.
//!
//! Keys are fetched when a token names one that is not in the cache, and when the cache is older than [`FRESH`]. A response replaces
//! the whole cache: a key that is missing from it is no longer accepted. While the issuer does not respond, the cache is used until
//! it is older than [`VALID`].
//!
//! A token's key id is not authenticated, so anyone can cause a fetch. One fetch is in progress at a time, they are limited to
//! [`FETCH_RATE`], and at most [`WAITERS_MAX`] requests wait for one. Tokens beyond these limits are refused for now, and not for
//! good: a genuine new key is therefore accepted at most 1 / [`FETCH_RATE`] after the first token that names it, because each
//! fetch, whatever caused it, updates the whole cache.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use reqwest::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::denial::Denial;
use super::fetch::{self, IssuerError};
use super::key::Key;
use super::limit::Bucket;
use super::log;
use super::settings::{IssuerSettings, Signature};

/// The age at which keys are fetched again before use; a withdrawn key is accepted for so long at most.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
/// The age at which keys are no longer used, if no fetch succeeds.
pub const VALID: Duration = Duration::from_secs(60 * 60);
/// The time after a failed fetch in which cached keys are used without another attempt, so that not every token waits for it.
pub const BACKOFF: Duration = Duration::from_secs(30);
/// The sustained rate of fetches, per second.
pub const FETCH_RATE: f64 = 0.2;
/// Fetches in a burst.
pub const FETCH_BURST: f64 = 3.0;
/// The most requests that wait for a fetch of one issuer.
pub const WAITERS_MAX: usize = 256;

/// An issuer whose tokens are accepted.
pub struct Issuer {
    /// Its settings.
    pub settings: IssuerSettings,
    client: Client,
    keys: RefCell<Option<Rc<Keys>>>,
    /// The time of the last fetch, if it failed.
    failed_at: Cell<Option<Instant>>,
    fetches: Cell<u64>,
    failures: Cell<u64>,
    budget: RefCell<Bucket>,
    fetching: Mutex<()>,
    waiters: Cell<usize>,
}

/// The keys of one response.
struct Keys {
    keys: Vec<Rc<Key>>,
    fetched: Instant,
}

impl Keys {
    fn find(&self, id: &str, signature: Signature) -> Option<Rc<Key>> {
        self.keys.iter().find(|key| key.id == id && key.signature == signature).cloned()
    }
}

impl Issuer {
    /// An issuer with an empty cache. Nothing is sent yet.
    ///
    /// # Errors
    /// If its certificates cannot be used.
    pub fn new(settings: IssuerSettings) -> Result<Issuer, IssuerError> {
        Ok(Issuer {
            client: fetch::client(&settings)?,
            settings,
            keys: RefCell::default(),
            failed_at: Cell::default(),
            fetches: Cell::default(),
            failures: Cell::default(),
            budget: RefCell::new(Bucket::full(FETCH_BURST)),
            fetching: Mutex::default(),
            waiters: Cell::default(),
        })
    }

    /// The key with this id, for this kind of signature.
    ///
    /// # Errors
    /// The issuer has none, or its keys cannot be fetched now.
    pub async fn key(self: &Rc<Issuer>, id: &str, signature: Signature) -> Result<Rc<Key>, Denial> {
        let find = || self.cached().and_then(|keys| keys.find(id, signature));
        if self.is_current()
            && let Some(key) = find()
        {
            return Ok(key);
        }
        let fetched = match Waiter::enter(self) {
            // In a task of its own, which continues for other requests if this one is cancelled.
            Some(_waiter) => tokio::task::spawn_local(Rc::clone(self).refresh(self.fetches.get())).await.ok(),
            None => Some(Err(Denial::KeyPending { after: self.budget.borrow().wait(FETCH_RATE) })),
        };
        match (find(), fetched, self.failed_at.get()) {
            (Some(key), ..) => Ok(key),
            (None, Some(Err(denial)), None) => Err(denial),
            // A fetch that failed could have had the key.
            (None, _, Some(_)) => Err(Denial::IssuerDown),
            (None, ..) => Err(Denial::UnknownKey),
        }
    }

    /// Checks that it calls itself as the settings do, if it responds.
    ///
    /// # Errors
    /// Its own name differs from that of the settings.
    pub async fn check_name(&self) -> Result<(), IssuerError> {
        fetch::check_name(&self.client, &self.settings).await
    }

    /// The number of fetches, and of those that failed.
    pub fn fetches(&self) -> (u64, u64) {
        (self.fetches.get(), self.failures.get())
    }

    /// The age of the cache.
    pub fn age(&self) -> Option<Duration> {
        self.keys.borrow().as_ref().map(|keys| keys.fetched.elapsed())
    }

    fn cached(&self) -> Option<Rc<Keys>> {
        self.keys.borrow().clone().filter(|keys| keys.fetched.elapsed() < VALID)
    }

    /// Whether cached keys can be used without a fetch.
    fn is_current(&self) -> bool {
        self.age().is_some_and(|age| age <= FRESH) || self.failed_at.get().is_some_and(|at| at.elapsed() < BACKOFF)
    }

    /// Fetches the keys, unless that has happened since there were this many fetches, or has happened too often.
    async fn refresh(self: Rc<Issuer>, fetches: u64) -> Result<(), Denial> {
        let _turn = self.fetching.lock().await;
        if self.fetches.get() != fetches {
            return Ok(());
        }
        if !self.budget.borrow_mut().take(FETCH_RATE, FETCH_BURST) {
            return Err(Denial::KeyPending { after: self.budget.borrow().wait(FETCH_RATE) });
        }
        let outcome = fetch::keys(&self.client, &self.settings).await;
        self.fetches.set(fetches + 1);
        match outcome {
            Ok(keys) => {
                if keys.is_empty() {
                    log::note(&format!("{} has no key of an accepted kind", self.settings.url));
                }
                self.failed_at.set(None);
                let keys = keys.into_iter().map(Rc::new).collect();
                *self.keys.borrow_mut() = Some(Rc::new(Keys { keys, fetched: Instant::now() }));
            }
            Err(error) => {
                self.failed_at.set(Some(Instant::now()));
                self.failures.set(self.failures.get() + 1);
                log::note(&format!("cannot fetch the keys of {}: {error}", self.settings.url));
            }
        }
        Ok(())
    }
}

/// One of the requests that wait for a fetch.
struct Waiter<'a>(&'a Issuer);

impl Waiter<'_> {
    fn enter(issuer: &Issuer) -> Option<Waiter<'_>> {
        let waiters = issuer.waiters.get();
        (waiters < WAITERS_MAX).then(|| {
            issuer.waiters.set(waiters + 1);
            Waiter(issuer)
        })
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.set(self.0.waiters.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use serde_json::{Value, json};
    use tokio::task::LocalSet;
    use tokio::time;

    use super::*;

    /// What an issuer on loopback responds with, and how often it was asked.
    #[derive(Clone, Default)]
    struct FakeIssuer(Arc<Mutex<(u16, String, usize)>>);

    impl FakeIssuer {
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

        /// An issuer that responds with this.
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

    /// Whether a token that is signed with this key would be accepted.
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
    fn a_key_that_is_missing_from_a_response_is_no_longer_accepted() {
        block_on(async {
            let answer = FakeIssuer::default();
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
    fn known_keys_are_accepted_for_an_hour_without_a_response() {
        block_on(async {
            let answer = FakeIssuer::default();
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
            assert_eq!(answer.asked(), asked, "not every token waits for it");
            pass(BACKOFF).await;
            assert_eq!(ask(&issuer, "a").await, Ok(()));
            assert_eq!(answer.asked(), asked + 1);
            assert_eq!(ask(&issuer, "new").await, Err(Denial::IssuerDown), "it may have this key");
            pass(VALID - 3 * FRESH).await;
            assert_eq!(ask(&issuer, "a").await, Err(Denial::IssuerDown));
            answer.keys(&["a"]);
            assert_eq!(ask(&issuer, "a").await, Ok(()), "it is back");
        });
    }

    #[test]
    fn made_up_keys_delay_a_new_one_by_one_interval_and_refuse_nothing_for_good() {
        block_on(async {
            let answer = FakeIssuer::default();
            let issuer = answer.issuer();
            answer.keys(&["a"]);
            for made_up in ["x", "y", "z"] {
                assert_eq!(ask(&issuer, made_up).await, Err(Denial::UnknownKey));
            }
            answer.keys(&["a", "new"]);
            let Err(Denial::KeyPending { after }) = ask(&issuer, "new").await else { panic!("it was fetched") };
            assert!(after <= Duration::from_secs_f64(1.0 / FETCH_RATE), "{after:?}");
            assert_eq!(ask(&issuer, "a").await, Ok(()));
            // The fetch that the next made-up key causes also has the new one.
            pass(after).await;
            assert_eq!(ask(&issuer, "made-up").await, Err(Denial::UnknownKey));
            assert_eq!(ask(&issuer, "new").await, Ok(()));
        });
    }

    #[test]
    fn a_bounded_number_of_requests_waits_for_a_silent_issuer() {
        block_on(async {
            crate::tls::install();
            let silent = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", silent.local_addr().unwrap());
            let settings = json!({ "url": url, "audience": "a", "jwks-url": format!("{url}/keys") });
            let issuer = Rc::new(Issuer::new(serde_json::from_value(settings).unwrap()).unwrap());
            let waiting: Vec<_> = (0..WAITERS_MAX)
                .map(|number| {
                    let issuer = Rc::clone(&issuer);
                    tokio::task::spawn_local(async move { ask(&issuer, &format!("made-up-{number}")).await })
                })
                .collect();
            while issuer.waiters.get() < WAITERS_MAX {
                tokio::task::yield_now().await;
            }
            assert!(matches!(ask(&issuer, "another").await, Err(Denial::KeyPending { .. })));
            assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
            waiting.iter().for_each(tokio::task::JoinHandle::abort);
            while issuer.waiters.get() > 0 {
                tokio::task::yield_now().await;
            }
        });
    }
}
