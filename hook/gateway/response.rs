//! HTTP responses: what was read from Connect, and refusals in Connect's form.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::connections::Busy;
use super::denial::Denial;
use super::memory::Buffer;
use super::slots::Slot;

/// The type of a JSON body, as Connect states it.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
/// The type of a text body.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// What an authorized request is answered with.
pub enum Content {
    /// JSON.
    Json(Buffer),
    /// The content of a file, which is passed on as it arrives.
    File(reqwest::Response),
}

/// A body, and what is held until its end.
pub struct Body {
    content: Either<Full<Bytes>, reqwest::Body>,
    _slot: Option<Slot>,
    _busy: Option<Busy>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.content).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

/// JSON with its share of memory and its slot, both of which it keeps until it is sent, which is after the body's end.
struct Held {
    buffer: Buffer,
    _slot: Slot,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

/// A response with a whole body.
pub fn whole(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body { content: Either::Left(Full::new(body.into())), _slot: None, _busy: None });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The response of an authorized request.
pub fn of_answer(answer: Content, slot: Slot, busy: Busy) -> Response<Body> {
    match answer {
        Content::Json(buffer) => {
            let mut response = whole(StatusCode::OK, JSON, Bytes::from_owner(Held { buffer, _slot: slot }));
            response.body_mut()._busy = Some(busy);
            response
        }
        Content::File(content) => {
            let content: http::Response<reqwest::Body> = content.into();
            let (head, body) = content.into_parts();
            let mut response =
                Response::new(Body { content: Either::Right(body), _slot: Some(slot), _busy: Some(busy) });
            for name in [CONTENT_TYPE, CONTENT_DISPOSITION] {
                if let Some(value) = head.headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        }
    }
}

/// A refusal, in Connect's words where it has any.
pub fn refuse(denial: &Denial) -> Response<Body> {
    let status = StatusCode::from_u16(denial.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let message = match status {
        StatusCode::UNAUTHORIZED => format!("Authentication: ({denial})"),
        StatusCode::FORBIDDEN => format!("Authorization: {denial}"),
        _ => denial.to_string(),
    };
    let body = json!({ "status": status.as_u16(), "message": message });
    let mut response = whole(status, JSON, body.to_string());
    if let Some(after) = denial.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
    }
    if *denial == Denial::Method {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}
