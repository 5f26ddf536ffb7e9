//! The metadata server of a virtual machine (169.254.169.254).

use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;

use super::{Identity, PROJECT, SERVICE_ACCOUNT, aws};
use crate::http::{self, Request, Response};

const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Responds to requests with the header `Metadata-Flavor: Google`, and at the paths of AWS's servers as those do.
pub(crate) fn answer(identity: &Identity, request: &Request, fault: Option<&str>) -> Response {
    if matches!(request.segments()[..], ["latest" | "v1" | "v2", ..]) {
        return aws::answer_metadata(request, fault);
    }
    let response = match request.header(&FLAVOR) {
        Some("Google") if request.method == "GET" => answer_path(identity, request),
        Some("Google") => http::empty(405),
        _ => http::content(403, "text/html", "Missing Metadata-Flavor:Google header."),
    };
    http::with_header(response, FLAVOR, HeaderValue::from_static("Google"))
}

fn answer_path(identity: &Identity, request: &Request) -> Response {
    let text = |text: &str| http::content(200, "application/text", text);
    match request.segments()[..] {
        [] => text("computeMetadata/\n"),
        ["computeMetadata", "v1", "universe", "universe-domain" | "universe_domain"] => text("googleapis.com"),
        ["computeMetadata", "v1", "project", "project-id"] => text(PROJECT),
        ["computeMetadata", "v1", "instance", "service-accounts", "default" | SERVICE_ACCOUNT, ref path @ ..] => {
            match path {
                [] => http::json(200, &json!({ "aliases": ["default"], "email": SERVICE_ACCOUNT, "scopes": [SCOPE] })),
                ["token"] => http::json(200, &identity.grant("metadata")),
                ["email"] => text(SERVICE_ACCOUNT),
                ["scopes"] => text(SCOPE),
                _ => http::empty(404),
            }
        }
        _ => http::empty(404),
    }
}
