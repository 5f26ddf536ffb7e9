//! Faults, selected by name so that tests which share a stand-in do not interfere.
//!
//! | name | what happens |
//! |---|---|
//! | `status-<code>` | that status, with an error in the service's form |
//! | `retry-after-<seconds>` | 429 with `Retry-After` |
//! | `html-<code>` | that status with a page, as from a proxy |
//! | `not-json`, `empty-body`, `wrong-type`, `deep-json` | 200 with a body that does not parse |
//! | `huge` | 200 with a body of 1 GiB |
//! | `half-closed` | 200, but the connection closes in the middle of the body |
//! | `reset`, `silent` | no response: RST, or silence |
//! | `redirect` | 302 to another host, where every visit is counted |
//! | `slow-<ms>` | the normal response, delayed |
//!
//! An item whose title is one of these is stored at once, and
//!
//! | title | what happens |
//! |---|---|
//! | `write-late-<ms>…` | the response is delayed |
//! | `write-fails-<status>…` | the response has that status |
//! | `write-lags-<ms>…` | reads return the previous state for that long |
//!
//! Each fault may end in `-once` or `-twice` and any suffix (`status-503-once-my-test`): the fault occurs that many times for the whole
//! name, and then responses are normal.

use std::collections::HashMap;
use std::future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION, RETRY_AFTER};
use serde_json::json;

use crate::http::{self, Body, Request, Reset, Response};
use crate::services::Service;

/// Where redirects lead, below `/stand-in/`.
pub(crate) const TRAP: &str = "trap";

const HUGE_BODY_BYTES: u64 = 1 << 30;
const DEEP_JSON_LEVELS: usize = 100_000;

/// How often each limited fault was served.
#[derive(Default)]
pub(crate) struct Faults {
    served: Mutex<HashMap<String, u32>>,
    hits: AtomicU64,
}

enum Fault {
    Status(u16),
    RetryAfter(u64),
    Html(u16),
    NotJson,
    EmptyBody,
    WrongType,
    DeepJson,
    Huge,
    HalfClosed,
    Reset,
    Silent,
    Redirect,
    Slow(Duration),
}

impl Faults {
    /// Serves the fault that `name` selects; `None` for the normal response.
    pub(crate) async fn serve(
        &self,
        service: Service,
        name: &str,
        request: &Request,
    ) -> Result<Option<Response>, Reset> {
        let (kind, times) = split_times(name);
        match Fault::parse(kind) {
            Some(fault) if times.is_none_or(|times| self.count(service, name) <= times) => {
                fault.serve(service, request).await
            }
            _ => Ok(None),
        }
    }

    /// Counts a request that followed a redirect.
    pub(crate) fn hit(&self) -> Response {
        self.hits.fetch_add(1, Ordering::Relaxed);
        http::json(200, &json!([]))
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub(crate) fn reset(&self) {
        self.served.lock().unwrap().clear();
        self.hits.store(0, Ordering::Relaxed);
    }

    /// How often the name was requested, including this request.
    fn count(&self, service: Service, name: &str) -> u32 {
        let mut served = self.served.lock().unwrap();
        let count = served.entry(format!("{service:?} {name}")).or_default();
        *count += 1;
        *count
    }
}

/// Whether a name selects a fault.
pub(crate) fn is_fault(name: &str) -> bool {
    Fault::parse(split_times(name).0).is_some()
}

/// Splits a name into the fault and its number of occurrences, which is unlimited by default.
fn split_times(name: &str) -> (&str, Option<u32>) {
    for (word, times) in [("-once", 1), ("-twice", 2)] {
        if let Some((kind, rest)) = name.split_once(word)
            && (rest.is_empty() || rest.starts_with('-'))
        {
            return (kind, Some(times));
        }
    }
    (name, None)
}

/// A fault of writing an item.
pub(crate) enum Write {
    Late(Duration),
    Fails(u16),
    Lags(Duration),
}

impl Write {
    /// The fault that the title of an item selects.
    pub(crate) fn parse(title: &str) -> Option<Write> {
        let (word, rest) = title.strip_prefix("write-")?.split_once('-')?;
        let number: u16 = rest.split('-').next()?.parse().ok()?;
        match word {
            "late" => Some(Write::Late(Duration::from_millis(number.into()))),
            "fails" => Some(Write::Fails(number)),
            "lags" => Some(Write::Lags(Duration::from_millis(number.into()))),
            _ => None,
        }
    }
}

impl Fault {
    fn parse(kind: &str) -> Option<Fault> {
        let fault = match kind {
            "not-json" => Fault::NotJson,
            "empty-body" => Fault::EmptyBody,
            "wrong-type" => Fault::WrongType,
            "deep-json" => Fault::DeepJson,
            "huge" => Fault::Huge,
            "half-closed" => Fault::HalfClosed,
            "reset" => Fault::Reset,
            "silent" => Fault::Silent,
            "redirect" => Fault::Redirect,
            _ => {
                let (word, number) = kind.rsplit_once('-')?;
                let number: u64 = number.parse().ok()?;
                let status = u16::try_from(number).ok().filter(|status| (200..600).contains(status));
                match word {
                    "status" => Fault::Status(status?),
                    "html" => Fault::Html(status?),
                    "retry-after" => Fault::RetryAfter(number),
                    "slow" => Fault::Slow(Duration::from_millis(number)),
                    _ => return None,
                }
            }
        };
        Some(fault)
    }

    async fn serve(self, service: Service, request: &Request) -> Result<Option<Response>, Reset> {
        let json = |body: &'static str| http::content(200, "application/json", body);
        Ok(Some(match self {
            Fault::Status(status) => service.error(status, message(status)),
            Fault::RetryAfter(seconds) => {
                http::with_header(service.error(429, message(429)), RETRY_AFTER, HeaderValue::from(seconds))
            }
            Fault::Html(status) => http::content(status, "text/html", "<html><body>bad gateway</body></html>"),
            Fault::NotJson => json("this is no JSON"),
            Fault::EmptyBody => json(""),
            Fault::WrongType => json(r#"{"id":1,"fields":"none","plaintext":[1],"ciphertext":[1],"access_token":1}"#),
            Fault::DeepJson => {
                let body = "[".repeat(DEEP_JSON_LEVELS) + &"]".repeat(DEEP_JSON_LEVELS);
                http::content(200, "application/json", body)
            }
            Fault::Huge => {
                let body = Body::Huge { left: HUGE_BODY_BYTES, chunk: Bytes::from(vec![b' '; 1 << 16]) };
                http::with_header(
                    http::with_body(200, body),
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                )
            }
            Fault::HalfClosed => {
                let response = http::with_body(200, Body::broken(br#"{"id":"#));
                http::with_header(response, CONTENT_LENGTH, HeaderValue::from_static("1000"))
            }
            Fault::Reset => return Err(Reset),
            Fault::Silent => future::pending().await,
            Fault::Redirect => http::with_header(http::empty(302), LOCATION, other_host(request)),
            Fault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                return Ok(None);
            }
        }))
    }
}

/// The messages of the real services for a status, as far as they are known.
fn message(status: u16) -> &'static str {
    match status {
        400 => "Invalid request",
        401 => "Invalid token signature",
        403 => "Authorization: token does not have access",
        404 => "not found",
        408 => "sync did not complete within timeout, please retry the request",
        429 => "Too many requests",
        500 => "Something went wrong",
        _ => "Service is not available",
    }
}

/// The trap under another name of this listener, which clients treat as another host.
fn other_host(request: &Request) -> HeaderValue {
    let host = request.header(HOST).unwrap_or_default().replace("127.0.0.1", "localhost");
    HeaderValue::try_from(format!("{}://{host}/stand-in/{TRAP}", request.scheme)).unwrap()
}
