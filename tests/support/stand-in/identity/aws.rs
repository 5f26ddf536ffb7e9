//! AWS credentials: a token service that always refuses, because moto's always grants; the metadata server (IMDSv2), because moto has
//! only version 1; and the agents of containers, which moto lacks.
//!
//! | path | what it is |
//! |---|---|
//! | `POST /` | the Security Token Service: `AssumeRoleWithWebIdentity` and `AssumeRole`, always refused |
//! | `PUT /latest/api/token`, `GET /latest/meta-data/iam/security-credentials/…` | the metadata server (IMDSv2) |
//! | `GET /v2/credentials/<id>` | the agent of ECS |
//! | `GET /v1/credentials` | the agent of EKS Pod Identity, which requires a token |
//!
//! An expired token results in `ExpiredTokenException`, one of an unknown issuer in `InvalidIdentityToken`, and any other in
//! `AccessDenied`: the role does not trust us. With the metadata server's fault `no-role`, the machine has no role.

use std::collections::HashMap;

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::json;

use super::{EXPIRED_CLAIM, SUBJECT_TOKEN, parameter};
use crate::http::{self, Request, Response};

const SESSION: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const SESSION_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const SESSION_TOKEN: &str = "standin-imds-session";

/// The access key id from the agents and the metadata server.
const KEY_ID: &str = "ASIASTANDINAGENT";

const ROLE: &str = "agents";

pub(super) fn assume_role(form: &HashMap<String, String>) -> Response {
    let token = parameter(form, "WebIdentityToken");
    match parameter(form, "Action") {
        "AssumeRoleWithWebIdentity" if token.contains(EXPIRED_CLAIM) => {
            error(400, "ExpiredTokenException", &format!("Token {token} expired: 1 must be after now"))
        }
        "AssumeRoleWithWebIdentity" if token.contains("forged") => {
            error(400, "InvalidIdentityToken", &format!("No OpenIDConnect provider found for {token}"))
        }
        "AssumeRoleWithWebIdentity" => {
            error(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
        }
        "AssumeRole" => error(403, "AccessDenied", "User is not authorized to perform: sts:AssumeRole"),
        _ => error(400, "InvalidAction", "Could not find operation"),
    }
}

pub(super) fn answer_metadata(request: &Request, fault: Option<&str>) -> Response {
    match (request.method.as_str(), &request.segments()[..]) {
        ("PUT", ["latest", "api", "token"]) => match request.header(&SESSION_TTL) {
            None => http::empty(400),
            Some(seconds) => {
                let seconds = HeaderValue::from_str(seconds).unwrap();
                http::with_header(http::content(200, "text/plain", SESSION_TOKEN), SESSION_TTL, seconds)
            }
        },
        ("GET", ["latest", ..]) if request.header(&SESSION) != Some(SESSION_TOKEN) => http::empty(401),
        ("GET", ["latest", "meta-data", "iam", "security-credentials", path @ ..]) => match path {
            _ if fault == Some("no-role") => http::empty(404),
            [] => http::content(200, "text/plain", ROLE),
            [ROLE] => credentials(),
            _ => http::empty(404),
        },
        ("GET", ["v2", "credentials", _]) => credentials(),
        ("GET", ["v1", "credentials"]) => match request.header(AUTHORIZATION) {
            Some(SUBJECT_TOKEN) => credentials(),
            token => http::content(401, "text/plain", format!("not a token of a pod: {token:?}")),
        },
        _ => http::empty(404),
    }
}

fn credentials() -> Response {
    let body = json!({
        "Code": "Success",
        "AccessKeyId": KEY_ID,
        "SecretAccessKey": "standin-access-token",
        "Token": "standin-access-token",
        "Expiration": "2100-01-01T00:00:00Z",
        "RoleArn": "arn:aws:iam::123456789012:role/agents",
    });
    http::json(200, &body)
}

/// An error in the XML format of the token service.
fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>"
    );
    http::content(status, "text/xml", body)
}
