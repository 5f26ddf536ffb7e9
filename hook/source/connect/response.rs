//! What Connect answers: its body, or why it is of no use.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::excerpt::redacted;
use crate::http_client::{self, innermost};
use crate::retry::{Failure, GaveUp};
use crate::tls::TlsError;
use crate::token::TokenError;

/// The most that is read of one answer. 1Password bounds an item well below it.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most that is read of an error.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Why there is no usable answer to one request; what it means depends on what was asked for.
pub(super) enum RequestError {
    Token(TokenError),
    Status { status: StatusCode, tries: u32, message: Option<String> },
    NoAnswer { within: Duration, tries: u32 },
    NoConnection { cause: String, within: Duration },
    Broken { cause: String, tries: u32 },
    Tls(TlsError),
    TooLarge,
    NotConnect { line: usize, column: usize },
    Undecodable { line: usize, column: usize },
}

impl From<GaveUp<RequestError>> for RequestError {
    fn from(GaveUp { tries, within, last }: GaveUp<RequestError>) -> RequestError {
        match last {
            None => RequestError::NoAnswer { within, tries },
            Some(RequestError::Status { status, message, .. }) => RequestError::Status { status, tries, message },
            Some(RequestError::NoConnection { cause, .. }) => RequestError::NoConnection { cause, within },
            Some(RequestError::Broken { cause, .. }) => RequestError::Broken { cause, tries },
            Some(other) => other,
        }
    }
}

/// A connection that could not be made or broke. A server whose certificate is wrong now will not have a better one at once.
pub(super) fn broken(error: reqwest::Error) -> Failure<RequestError> {
    if let Some(problem) = TlsError::of(&error) {
        return Failure::Final(RequestError::Tls(problem));
    }
    let cause = innermost(&error);
    if error.is_connect() {
        Failure::NotSent(RequestError::NoConnection { cause, within: Duration::ZERO })
    } else {
        Failure::Transient { error: RequestError::Broken { cause, tries: 1 }, retry_after: None }
    }
}

pub(super) async fn refused(response: Response) -> Failure<RequestError> {
    let status = response.status();
    if is_transient(status) {
        let retry_after = retry_after(&response);
        return Failure::Transient { error: RequestError::Status { status, tries: 1, message: None }, retry_after };
    }
    // What is wrong with a request, or with a token: the gateway says why it refuses one.
    let has_message = matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED);
    let message = if has_message { message(response).await } else { None };
    Failure::Final(RequestError::Status { status, tries: 1, message })
}

pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Connect's own words on what is wrong with a request; those of another server, if they are text.
async fn message(response: Response) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }
    let body = http_client::read(response, MESSAGE_BYTES_MAX).await.ok()??;
    let text = match serde_json::from_slice(&body) {
        Ok(Body { message }) => message,
        Err(_) => std::str::from_utf8(&body).ok().map(ToOwned::to_owned).filter(|text| !text.contains('<'))?,
    };
    let line = text.trim().lines().next()?.to_owned();
    (!line.is_empty()).then(|| redacted(&line))
}

/// `Retry-After` in seconds. Its other form, a date, is not worth a parser: it is treated as if it were absent.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// What is no JSON comes from another server; what is JSON of another form is one item, which must not look like an outage.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        if error.is_data() {
            RequestError::Undecodable { line, column }
        } else {
            RequestError::NotConnect { line, column }
        }
    })
}

pub(super) async fn read(response: Response) -> Result<Zeroizing<Vec<u8>>, Failure<RequestError>> {
    let body = http_client::read(response, ANSWER_BYTES_MAX).await.map_err(broken)?;
    body.ok_or(Failure::Final(RequestError::TooLarge))
}
