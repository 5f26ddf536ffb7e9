//! 1Password Connect, as the gateway asks it: with the one token that reads, and the paths that the gateway makes itself.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use reqwest::Response;
use reqwest::StatusCode;
use reqwest::header::{HeaderName, HeaderValue, RETRY_AFTER};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::denial::Denial;
use crate::settings;
use crate::source::SourceError;
use crate::source::connect::{ANSWER_BYTES_MAX, Connect};

/// By this header clients tell what a server can do.
pub const VERSION: HeaderName = HeaderName::from_static("1password-connect-version");

/// How long names of vaults are remembered.
const VAULTS_FRESH: Duration = Duration::from_secs(30);
/// How soon they are asked for again for a vault that is not among them.
const VAULTS_PAUSE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A vault, by what rules know it.
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
        })
    }

    /// The version that it told last.
    pub fn version(&self) -> Option<HeaderValue> {
        self.version.borrow().clone()
    }

    /// Whether it answered when it was asked last.
    pub fn is_up(&self) -> bool {
        self.is_up.get()
    }

    /// The vaults that the token sees. For a vault that is `missed` they are asked for again sooner: whether there is one that the
    /// asker may not see makes no difference.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn vaults(&self, missed: bool) -> Result<Vec<Vault>, Denial> {
        let fresh = if missed { VAULTS_PAUSE } else { VAULTS_FRESH };
        let known = || {
            let vaults = self.vaults.borrow();
            vaults.as_ref().filter(|(told, _)| told.elapsed() < fresh).map(|(_, vaults)| vaults.clone())
        };
        if let Some(vaults) = known() {
            return Ok(vaults);
        }
        let _turn = self.asking.lock().await;
        if let Some(vaults) = known() {
            return Ok(vaults);
        }
        let vaults: Vec<Vault> = self.read(&["vaults"], &[]).await?.ok_or(Denial::ConnectOdd)?.parse()?;
        *self.vaults.borrow_mut() = Some((Instant::now(), vaults.clone()));
        Ok(vaults)
    }

    /// The whole of what is at a path; `None` if nothing is, or not for the token.
    ///
    /// # Errors
    /// It cannot be asked, or answers with what is too large.
    pub async fn read(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Option<Body>, Denial> {
        let Some(mut response) = self.ask(path, query).await? else { return Ok(None) };
        let mut body = Zeroizing::new(Vec::new());
        let read = async {
            while let Some(chunk) = response.chunk().await.map_err(|_| Denial::ConnectDown)? {
                if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                    return Err(Denial::ConnectOdd);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(())
        };
        timeout(TIMEOUT, read).await.map_err(|_| Denial::ConnectDown)??;
        Ok(Some(Body(body)))
    }

    /// The beginning of what is at a path; `None` if nothing is, or not for the token.
    ///
    /// # Errors
    /// It cannot be asked.
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
                super::note("1Password Connect refuses our token: 401 Unauthorized");
                Err(Denial::ConnectOdd)
            }
            _ => Err(Denial::ConnectOdd),
        }
    }
}

/// A body that was read whole.
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is none, or not what was asked for.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Denial> {
        serde_json::from_slice(&self.0).map_err(|_| Denial::ConnectOdd)
    }
}

fn busy(status: StatusCode, response: &Response) -> Denial {
    let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    Denial::ConnectBusy { status: status.as_u16(), after: after.map(Duration::from_secs) }
}
