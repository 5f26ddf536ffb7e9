//! 1Password Connect: requests with the gateway's own token, and only for paths that the gateway builds itself.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use reqwest::Response;
use reqwest::StatusCode;
use reqwest::header::{HeaderName, HeaderValue, RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::denial::Denial;
use super::list::List;
use super::log;
use super::memory::{Budget, Buffer};
use crate::settings;
use crate::source::SourceError;
use crate::source::connect::{ANSWER_BYTES_MAX, Connect};

/// The header by which clients know the features of a server.
pub const VERSION: HeaderName = HeaderName::from_static("1password-connect-version");

/// How long the names of vaults are cached.
const VAULTS_FRESH: Duration = Duration::from_secs(30);
/// How long they are cached for a vault that is not among them.
const VAULTS_PAUSE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// An entry of a list, or an item.
pub type Object = Map<String, Value>;

/// A vault, by what rules name.
#[derive(Clone, Deserialize)]
pub struct Vault {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// 1Password Connect.
pub struct Upstream {
    connect: Connect,
    version: RefCell<Option<HeaderValue>>,
    vaults: RefCell<Option<(Instant, Vec<Vault>)>>,
    asking: tokio::sync::Mutex<()>,
    is_up: Cell<bool>,
    budget: Budget,
}

impl Upstream {
    /// Reads the token and the certificates. Nothing is sent yet.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn open(settings: &settings::Connect) -> Result<Upstream, SourceError> {
        Ok(Upstream {
            connect: Connect::open(settings)?,
            version: RefCell::default(),
            vaults: RefCell::default(),
            asking: tokio::sync::Mutex::default(),
            is_up: Cell::new(true),
            budget: Budget::default(),
        })
    }

    /// The version in its last response.
    pub fn version(&self) -> Option<HeaderValue> {
        self.version.borrow().clone()
    }

    /// Whether it responded to the last request.
    pub fn is_up(&self) -> bool {
        self.is_up.get()
    }

    /// The vaults that the token can read. They are fetched again sooner for a vault that was `missed`, whether it does not exist or
    /// is out of scope.
    ///
    /// # Errors
    /// Connect does not respond.
    pub async fn vaults(&self, missed: bool) -> Result<Vec<Vault>, Denial> {
        let fresh = if missed { VAULTS_PAUSE } else { VAULTS_FRESH };
        let cached = || {
            let vaults = self.vaults.borrow();
            vaults.as_ref().filter(|(fetched, _)| fetched.elapsed() < fresh).map(|(_, vaults)| vaults.clone())
        };
        if let Some(vaults) = cached() {
            return Ok(vaults);
        }
        let _turn = self.asking.lock().await;
        if let Some(vaults) = cached() {
            return Ok(vaults);
        }
        let vaults = self.read(&["vaults"], &[]).await?.ok_or(Denial::ConnectOdd)?;
        let vaults: Vec<Vault> = serde_json::from_slice(vaults.bytes()).map_err(|_| Denial::ConnectOdd)?;
        *self.vaults.borrow_mut() = Some((Instant::now(), vaults.clone()));
        Ok(vaults)
    }

    /// The whole response for a path; `None` if there is nothing, or nothing that the token may read.
    ///
    /// # Errors
    /// Connect does not respond, or the response is too large.
    pub async fn read(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Option<Buffer>, Denial> {
        let mut buffer = self.buffer();
        let is_found = self.read_into(&mut buffer, path, query).await?;
        Ok(is_found.then_some(buffer))
    }

    /// Appends the whole response for a path; `false` if there is nothing, or nothing that the token may read.
    ///
    /// # Errors
    /// As for [`Upstream::read`].
    pub async fn read_into(&self, buffer: &mut Buffer, path: &[&str], query: &[(&str, &str)]) -> Result<bool, Denial> {
        let Some(mut response) = self.ask(path, query).await? else { return Ok(false) };
        let read = async {
            while let Some(chunk) = response.chunk().await.map_err(|_| Denial::ConnectDown)? {
                buffer.append(&chunk).await?;
            }
            Ok(true)
        };
        timeout(TIMEOUT, read).await.map_err(|_| Denial::ConnectDown)?
    }

    /// The entries of a list that are kept, as a JSON array, and their number; `None` if there is no such list.
    ///
    /// # Errors
    /// As for [`Upstream::read`].
    pub async fn list(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        mut keep: impl FnMut(&mut Object) -> bool,
    ) -> Result<Option<(Buffer, usize)>, Denial> {
        let Some(mut response) = self.ask(path, query).await? else { return Ok(None) };
        let (mut kept, mut list, mut length, mut count) = (self.buffer(), List::default(), 0, 0);
        let mut part = Vec::new();
        let read = async {
            loop {
                let chunk = response.chunk().await.map_err(|_| Denial::ConnectDown)?;
                length += chunk.as_ref().map_or(0, |chunk| chunk.len());
                if length > ANSWER_BYTES_MAX {
                    return Err(Denial::ConnectOdd);
                }
                let each = |mut entry: Object| {
                    if keep(&mut entry) {
                        part.push(if count == 0 { b'[' } else { b',' });
                        count += 1;
                        // Writing a map of strings to memory does not fail.
                        let _ = serde_json::to_writer(&mut part, &entry);
                    }
                };
                match &chunk {
                    Some(chunk) => list.push(chunk, each)?,
                    None => std::mem::take(&mut list).finish(each)?,
                }
                kept.append(&part).await?;
                part.clear();
                if chunk.is_none() {
                    return kept.append(if count == 0 { b"[]" } else { b"]" }).await;
                }
            }
        };
        timeout(TIMEOUT, read).await.map_err(|_| Denial::ConnectDown)??;
        kept.settle();
        Ok(Some((kept, count)))
    }

    /// An empty buffer for a response.
    pub fn buffer(&self) -> Buffer {
        self.budget.buffer()
    }

    /// The response for a path, of which the body is not read yet; `None` if there is nothing, or nothing that the token may read.
    ///
    /// # Errors
    /// Connect does not respond, or with an error.
    pub async fn ask(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Option<Response>, Denial> {
        let answer = match timeout(TIMEOUT, self.connect.send(path, query)).await {
            Ok(Ok(response)) => self.judge(response),
            _ => Err(Denial::ConnectDown),
        };
        self.is_up.set(!matches!(answer, Err(Denial::ConnectDown | Denial::ConnectOdd)));
        answer
    }

    fn judge(&self, response: Response) -> Result<Option<Response>, Denial> {
        if let Some(version) = response.headers().get(VERSION) {
            *self.version.borrow_mut() = Some(version.clone());
        }
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(None),
            StatusCode::PAYLOAD_TOO_LARGE => Err(Denial::Invalid { what: "File is too large to inline in request" }),
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => Err(busy(status, &response)),
            status if status.is_server_error() => Err(busy(status, &response)),
            StatusCode::UNAUTHORIZED => {
                log::note("1Password Connect refuses our token: 401 Unauthorized");
                Err(Denial::ConnectOdd)
            }
            _ => Err(Denial::ConnectOdd),
        }
    }
}

fn busy(status: StatusCode, response: &Response) -> Denial {
    let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    Denial::ConnectBusy { status: status.as_u16(), after: after.map(Duration::from_secs) }
}
