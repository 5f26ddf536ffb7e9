//! Issuers of identity tokens (OpenID Connect), created on demand: the first segment of the path is the name of an issuer.
//!
//! `github…`, `gitlab…` and `kubernetes…` behave like those platforms and sign with RS256; `es256…` and `eddsa…` use the algorithm in
//! their name. Each has its own keys, so tests which share a stand-in use different names (`github-rotation`). Below the issuer:
//!
//! | path | what it is |
//! |---|---|
//! | `GET /.well-known/openid-configuration` | the discovery document, with the URL of the keys |
//! | `GET /.well-known/jwks`, `/oauth/discovery/keys`, `/openid/v1/jwks`, `/keys` | the keys, at the path of the platform |
//! | `GET /request?api-version=2.0[&audience=…]` | GitHub's `ACTIONS_ID_TOKEN_REQUEST_URL`, with the bearer token [`REQUEST_TOKEN`] |
//!
//! Control of the stand-in, by `POST /stand-in/issuers/<name>/…` with a JSON body:
//!
//! | path | what it does |
//! |---|---|
//! | `mint` | `{"token": …}`, with `claims` and `header` put over the usual ones (`null` takes one away) or with the texts `raw-claims-members` and `raw-header-members` put before their members, signed `by` another issuer, with a `retired` key, or with the `algorithm` `none`, `HS256` (confused with the public key) |
//! | `rotate` | generates a new key; the old ones are still published unless `"keep"` is `false` |
//! | `fault` | responses of `discovery`, `jwks` and `request` have the fault of this name ([`crate::fault`]), `null` ends it |
//! | `discovery` | overrides these members of the document |
//! | `jwks` | serves these keys instead, or the text `raw`; `null` ends it |

mod key;
mod platform;

use std::collections::HashMap;
use std::sync::Mutex;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use key::Key;
use platform::Platform;
use serde_json::{Map, Value, json};

use crate::http::{self, Request, Response};

/// The `ACTIONS_ID_TOKEN_REQUEST_TOKEN` of a GitHub job.
pub(crate) const REQUEST_TOKEN: &str = "standin-id-token-request";

/// Every issuer that was used so far.
#[derive(Default)]
pub(crate) struct Issuers {
    /// The base URL.
    url: String,
    issuers: Mutex<HashMap<String, Issuer>>,
}

struct Issuer {
    platform: Platform,
    /// The keys, the newest last, generated on demand.
    keys: Vec<Key>,
    /// The number of oldest keys that are no longer published.
    hidden: usize,
    faults: HashMap<String, String>,
    discovery: Map<String, Value>,
    jwks: Value,
}

impl Issuers {
    pub(crate) fn at(url: String) -> Issuers {
        Issuers { url, issuers: Mutex::default() }
    }

    pub(crate) fn answer(&self, request: &Request) -> Response {
        let [name, ref path @ ..] = request.segments()[..] else { return http::empty(404) };
        let mut issuers = self.issuers.lock().unwrap();
        let issuer = Issuer::named(&mut issuers, name);
        let url = format!("{}/{name}", self.url);
        match (request.method.as_str(), endpoint(issuer.platform, path)) {
            ("GET", Some("discovery")) => http::json(200, &issuer.discovery(&url)),
            ("GET", Some("jwks")) => match &issuer.jwks()["raw"] {
                Value::String(text) => http::content(200, "application/json", text.as_bytes()),
                _ => http::json(200, &issuer.jwks()),
            },
            ("GET", Some("request")) => issuer.grant(&url, request),
            (_, Some(_)) => http::empty(405),
            _ => http::empty(404),
        }
    }

    /// The fault for the response to a request.
    pub(crate) fn fault(&self, request: &Request) -> Option<String> {
        let [name, ref path @ ..] = request.segments()[..] else { return None };
        let issuers = self.issuers.lock().unwrap();
        let issuer = issuers.get(name)?;
        issuer.faults.get(endpoint(issuer.platform, path)?).cloned()
    }

    /// Handles a control request of a test.
    pub(crate) fn administer(&self, request: &Request) -> Response {
        let ["stand-in", "issuers", name, action] = request.segments()[..] else { return http::empty(404) };
        let mut issuers = self.issuers.lock().unwrap();
        let body = request.json();
        if let Some(signer) = body["by"].as_str() {
            Issuer::named(&mut issuers, signer);
        }
        Issuer::named(&mut issuers, name);
        let issuer = issuers.get_mut(name).unwrap();
        match action {
            "mint" => {
                let claims = issuer.platform.claims(&format!("{}/{name}", self.url), "oci-secrets");
                let signer = &issuers[body["by"].as_str().unwrap_or(name)];
                return http::json(200, &json!({ "token": signer.mint(claims, &body) }));
            }
            "rotate" => issuer.rotate(name, body["keep"] != false),
            "fault" => {
                for (endpoint, fault) in body.as_object().unwrap() {
                    match fault.as_str() {
                        Some(fault) => issuer.faults.insert(endpoint.clone(), fault.to_owned()),
                        None => issuer.faults.remove(endpoint),
                    };
                }
            }
            "discovery" => issuer.discovery = body.as_object().cloned().unwrap_or_default(),
            "jwks" => issuer.jwks = body,
            _ => return http::empty(404),
        }
        http::empty(204)
    }

    /// The claims of an unexpired token that one of these issuers signed with RS256 and a published key.
    pub(crate) fn verify(&self, token: &str) -> Option<Value> {
        let (message, signature) = token.rsplit_once('.')?;
        let claims = BASE64_URL_SAFE_NO_PAD.decode(message.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let issuers = self.issuers.lock().unwrap();
        let issuer = issuers.get(claims["iss"].as_str()?.strip_prefix(&self.url)?.trim_matches('/'))?;
        // RS256 signatures are deterministic, so the signature can be compared.
        let signs = |key: &Key| BASE64_URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes())) == signature;
        let is_valid = issuer.keys.iter().skip(issuer.hidden).any(signs);
        (is_valid && claims["exp"].as_i64()? > jiff::Timestamp::now().as_second()).then_some(claims)
    }

    /// Forgets all issuers, and so their keys.
    pub(crate) fn reset(&self) {
        self.issuers.lock().unwrap().clear();
    }
}

impl Issuer {
    fn named<'a>(issuers: &'a mut HashMap<String, Issuer>, name: &str) -> &'a mut Issuer {
        issuers.entry(name.to_owned()).or_insert_with(|| {
            let mut issuer = Issuer {
                platform: Platform::of(name),
                keys: Vec::new(),
                hidden: 0,
                faults: HashMap::new(),
                discovery: Map::new(),
                jwks: Value::Null,
            };
            issuer.rotate(name, true);
            issuer
        })
    }

    fn rotate(&mut self, name: &str, keep: bool) {
        if !keep {
            self.hidden = self.keys.len();
        }
        let algorithm = match name.split('-').next() {
            Some("es256") => "ES256",
            Some("eddsa") => "EdDSA",
            _ => "RS256",
        };
        self.keys.push(Key::generate(algorithm, format!("{name}-key-{}", self.keys.len() + 1)));
    }

    fn discovery(&self, url: &str) -> Value {
        let mut document = self.platform.discovery(url, self.keys[0].algorithm());
        document.as_object_mut().unwrap().extend(self.discovery.clone());
        document
    }

    fn jwks(&self) -> Value {
        if !self.jwks.is_null() {
            return self.jwks.clone();
        }
        let keys: Value = self.keys.iter().skip(self.hidden).map(Key::to_jwk).collect();
        json!({ "keys": keys })
    }

    /// Issues a token for a GitHub job.
    fn grant(&self, url: &str, request: &Request) -> Response {
        if request.bearer() != Some(REQUEST_TOKEN) {
            return http::json(401, &json!({ "message": "unauthorized" }));
        }
        let audience = request.parameter("audience").unwrap_or_else(|| "https://github.com/acme".to_owned());
        let token = self.mint(self.platform.claims(url, &audience), &Value::Null);
        http::json(200, &json!({ "count": 1, "value": token }))
    }

    /// A token with these claims, modified by the body.
    fn mint(&self, mut claims: Map<String, Value>, body: &Value) -> String {
        let key =
            if body["retired"] == true { &self.keys[self.keys.len() - 2] } else { &self.keys[self.keys.len() - 1] };
        let algorithm = body["algorithm"].as_str().unwrap_or(key.algorithm());
        let mut header = Map::from_iter([
            ("typ".to_owned(), "JWT".into()),
            ("alg".to_owned(), algorithm.into()),
            ("kid".to_owned(), key.id.as_str().into()),
        ]);
        put_over(&mut header, &body["header"]);
        put_over(&mut claims, &body["claims"]);
        let text = |members: Map<String, Value>, raw: &str| {
            let text = Value::from(members).to_string();
            let raw = body[raw].as_str().map_or(text.clone(), |raw| text.replacen('{', &format!("{{{raw},"), 1));
            BASE64_URL_SAFE_NO_PAD.encode(raw)
        };
        let message = format!("{}.{}", text(header, "raw-header-members"), text(claims, "raw-claims-members"));
        let signature = match algorithm {
            "none" => Vec::new(),
            "HS256" => key.confuse(message.as_bytes()),
            _ => key.sign(message.as_bytes()),
        };
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The name of the endpoint at a path below an issuer.
fn endpoint(platform: Platform, path: &[&str]) -> Option<&'static str> {
    match path {
        [".well-known", "openid-configuration"] => Some("discovery"),
        ["request"] => Some("request"),
        _ => (path.join("/") == platform.jwks_path()).then_some("jwks"),
    }
}

fn put_over(members: &mut Map<String, Value>, others: &Value) {
    for (name, value) in others.as_object().into_iter().flatten() {
        match value {
            Value::Null => members.remove(name),
            value => members.insert(name.clone(), value.clone()),
        };
    }
}
