//! Google's identity endpoints, each below one address: OAuth 2.0 token, Security Token Service and IAM credentials.
//!
//! | path | what it is |
//! |---|---|
//! | `POST /token` | a service account's signed assertion for an access token |
//! | `POST /v1/token` | workload identity federation: a foreign token for an access token (RFC 8693) |
//! | `POST /v1/projects/-/serviceAccounts/<email>:generateAccessToken` | impersonation; `denied@…` is `PERMISSION_DENIED` |
//! | `GET /subject-token[/<name>]` | the foreign token, as a CI system serves it |
//!
//! AWS's endpoints at the same address are in [`aws`]. The metadata server and the issuers of identity tokens ([`issuer`]) have their
//! own addresses. Faults (see [`crate::fault`]) are selected by the part of the email before the `@`, by the provider at the end of the audience,
//! by the name after `subject-token`, and by the name of AWS's role.

mod aws;
pub(crate) mod files;
pub(crate) mod issuer;
mod jwt;
mod metadata;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::google::Refusal;
use crate::http::{self, Request, Response};
use issuer::Issuers;

/// A marker in every access token, to search for leaks.
const MARKER: &str = "standin-access-token";

/// The foreign token that can be exchanged.
pub(crate) const SUBJECT_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWdlbnQifQ.standin-subject-token";

/// A part of an expired foreign token: `{"exp":1}`, in base64.
const EXPIRED_CLAIM: &str = ".eyJleHAiOjF9.";

/// The bearer token with which a client of a CI system requests the foreign token.
const SUBJECT_TOKEN_BEARER: &str = "standin-subject-token-request";

/// The workload identity pool; the provider's name follows.
const PROVIDERS: &str =
    "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/stand-in/providers/";

const PROJECT: &str = "stand-in";
const SERVICE_ACCOUNT: &str = "agents@stand-in.iam.gserviceaccount.com";
const LIFETIME_SECONDS: i64 = 3599;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// All identities.
#[derive(Default)]
pub(crate) struct Identity {
    /// The issued access tokens.
    tokens: Mutex<HashSet<String>>,
    /// The key of the service account, if there is one.
    pub(crate) key: Option<jwt::PublicKey>,
}

impl Identity {
    pub(crate) fn answer(&self, request: &Request, issuers: &Issuers) -> Response {
        match (request.method.as_str(), &request.segments()[..]) {
            ("POST", ["token"]) => self.assert(&form(request)),
            ("POST", ["v1", "token"]) => self.exchange(&form(request), issuers),
            ("POST", ["v1", "projects", "-", "serviceAccounts", account]) => {
                self.impersonate(request, account).unwrap_or_else(Response::from)
            }
            ("GET", ["subject-token", ..]) => subject_token(request),
            ("POST", []) => aws::assume_role(&form(request)),
            _ => Refusal::unknown_path().into(),
        }
    }

    pub(crate) fn answer_metadata(&self, request: &Request, fault: Option<&str>) -> Response {
        metadata::answer(self, request, fault)
    }

    /// Whether the request has an issued token, or a self-signed token of the service account.
    pub(crate) fn check(&self, request: &Request) -> Result<(), Refusal> {
        let known = |token: &str| self.tokens.lock().unwrap().contains(token);
        let self_signed = |token| {
            let claims = self.key.as_ref().and_then(|key| key.verify(token));
            claims.is_some_and(|claims| claims["iss"] == SERVICE_ACCOUNT)
        };
        match request.bearer() {
            Some(token) if known(token) || self_signed(token) => Ok(()),
            _ => Err(Refusal::new(
                401,
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
                 authentication credential.",
            )),
        }
    }

    /// Revokes all issued tokens.
    pub(crate) fn reset(&self) {
        self.tokens.lock().unwrap().clear();
    }

    fn issue(&self, kind: &str) -> String {
        let mut tokens = self.tokens.lock().unwrap();
        let token = format!("ya29.{MARKER}-{kind}-{}", tokens.len() + 1);
        tokens.insert(token.clone());
        token
    }

    /// The body of a token endpoint's response.
    fn grant(&self, kind: &str) -> serde_json::Value {
        json!({ "access_token": self.issue(kind), "expires_in": LIFETIME_SECONDS, "token_type": "Bearer" })
    }

    /// RFC 7523: an assertion that the service account has signed.
    fn assert(&self, form: &HashMap<String, String>) -> Response {
        if parameter(form, "grant_type") != JWT_BEARER {
            return error(400, "unsupported_grant_type", "Invalid grant_type");
        }
        let claims = self.key.as_ref().and_then(|key| key.verify(parameter(form, "assertion")));
        match claims {
            None => error(400, "invalid_grant", "Invalid JWT Signature."),
            Some(claims) if claims["iss"] != SERVICE_ACCOUNT => {
                error(400, "invalid_grant", "Invalid grant: account not found")
            }
            Some(_) => http::json(200, &self.grant("assertion")),
        }
    }

    /// RFC 8693: a foreign token. A token of one of the issuers must have the provider as its audience, which is Google's default.
    fn exchange(&self, form: &HashMap<String, String>, issuers: &Issuers) -> Response {
        if parameter(form, "grant_type") != TOKEN_EXCHANGE {
            return error(400, "unsupported_grant_type", "Invalid grant_type");
        }
        if parameter(form, "requested_token_type") != ACCESS_TOKEN_TYPE {
            return error(400, "invalid_request", "Invalid requested_token_type");
        }
        if !parameter(form, "audience").starts_with(PROVIDERS) {
            return error(
                400,
                "invalid_target",
                "The target service indicated by the \"audience\" parameters is invalid.",
            );
        }
        if parameter(form, "subject_token").contains(EXPIRED_CLAIM) {
            return error(400, "invalid_grant", "ID Token issued at 0 is stale to sign-in.");
        }
        let audience = parameter(form, "audience").replacen("//", "https://", 1);
        let claims = issuers.verify(parameter(form, "subject_token"));
        if !claims.is_some_and(|claims| claims["aud"] == audience)
            && !is_subject_token(parameter(form, "subject_token"))
        {
            return error(400, "invalid_grant", "The given credential is rejected: its signature is invalid.");
        }
        let mut grant = self.grant("federated");
        grant["issued_token_type"] = ACCESS_TOKEN_TYPE.into();
        http::json(200, &grant)
    }

    fn impersonate(&self, request: &Request, account: &str) -> Result<Response, Refusal> {
        let email = account.strip_suffix(":generateAccessToken").ok_or_else(Refusal::unknown_path)?;
        self.check(request)?;
        if email.starts_with("denied@") {
            let resource = format!("projects/-/serviceAccounts/{email}");
            return Err(Refusal::denied("iam.googleapis.com", "iam.serviceAccounts.getAccessToken", &resource));
        }
        let expires = Timestamp::now() + SignedDuration::from_secs(LIFETIME_SECONDS);
        let body = json!({ "accessToken": self.issue("impersonated"), "expireTime": format!("{expires:.0}") });
        Ok(http::json(200, &body))
    }
}

/// The part of the request that can select a fault.
pub(crate) fn name_asked_for(request: &Request) -> Option<String> {
    match request.segments()[..] {
        ["v1", "token"] => Some(form(request).get("audience")?.rsplit('/').next()?.to_owned()),
        ["v1", "projects", "-", "serviceAccounts", account] => Some(account.split_once('@')?.0.to_owned()),
        ["subject-token", name] => Some(name.to_owned()),
        [] => Some(form(request).get("RoleArn")?.rsplit('/').next()?.to_owned()),
        _ => None,
    }
}

/// An error of the token endpoints (RFC 6749, section 5.2).
pub(crate) fn error(status: u16, code: &str, description: &str) -> Response {
    http::json(status, &json!({ "error": code, "error_description": description }))
}

fn subject_token(request: &Request) -> Response {
    match request.bearer() {
        Some(SUBJECT_TOKEN_BEARER) => http::json(200, &json!({ "value": SUBJECT_TOKEN })),
        _ => http::json(401, &json!({ "message": "unauthorized" })),
    }
}

/// Whether this is the foreign token, or another one of its issuer with an expiry.
fn is_subject_token(token: &str) -> bool {
    let claims = token.strip_suffix(".standin-subject-token").and_then(|rest| rest.rsplit('.').next());
    let claims = claims.and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: serde_json::Value = claims.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    token == SUBJECT_TOKEN || claims["exp"].as_i64().is_some_and(|end| end > Timestamp::now().as_second())
}

fn form(request: &Request) -> HashMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().collect()
}

fn parameter<'a>(form: &'a HashMap<String, String>, name: &str) -> &'a str {
    form.get(name).map(String::as_str).unwrap_or_default()
}
