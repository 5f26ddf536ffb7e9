//! `/v1/activity`: Connect's log of requests.

use hyper::header::{CONTENT_RANGE, HeaderValue};
use serde_json::{Value, json};

use super::token::Token;
use super::{Answer, error, world};
use crate::http::{self, Request};
use crate::requests::{Entry, Requests};
use crate::services::Service;

/// One page of the log of requests for vaults and items, newest first.
pub(crate) fn page(request: &Request, token: &Token, requests: &Requests) -> Answer {
    let number = |name, default| match request.parameter(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| error(400, &format!("Invalid {name}"))),
    };
    let (limit, offset): (usize, usize) = (number("limit", 50)?, number("offset", 0)?);
    let all: Vec<Entry> =
        requests.of(Service::Connect).into_iter().filter(|e| e.path.starts_with("/v1/vaults")).collect();
    let page: Vec<Value> = all
        .iter()
        .enumerate()
        .skip(offset)
        .take(limit)
        .map(|(age, entry)| api_request(entry, all.len() - age, token))
        .collect();
    let range = format!("{}-{}/{}", (offset + 1).min(all.len()), offset + page.len(), all.len());
    Ok(http::with_header(http::json(200, &page.into()), CONTENT_RANGE, HeaderValue::try_from(range).unwrap()))
}

fn api_request(entry: &Entry, number: usize, token: &Token) -> Value {
    let mut segments = entry.path.split('/').skip(3);
    let vault = segments.next();
    let item = segments.nth(1);
    let mut resource = json!({ "type": if entry.path.contains("/items") { "ITEM" } else { "VAULT" } });
    for (name, id) in [("vault", vault), ("item", item)] {
        if let Some(id) = id {
            resource[name] = json!({ "id": id });
        }
    }
    json!({
        "requestId": format!("00000000-0000-4000-8000-{number:012}"),
        "timestamp": entry.time.to_string(),
        "action": match entry.method.as_str() {
            "POST" => "CREATE",
            "PUT" | "PATCH" => "UPDATE",
            "DELETE" => "DELETE",
            _ => "READ",
        },
        "result": if matches!(entry.status.map(|status| status.as_u16()), Some(401 | 403)) { "DENY" } else { "SUCCESS" },
        "actor": {
            "id": "00000000-0000-4000-8000-000000000000",
            "account": world::id("account"),
            "jti": token.jti(),
            "userAgent": entry.user_agent,
            "requestIp": "127.0.0.1",
        },
        "resource": resource,
    })
}
