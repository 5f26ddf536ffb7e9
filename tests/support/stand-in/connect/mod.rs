//! 1Password Connect, based on its OpenAPI description 1.7.1 and the observed behaviour of version 1.8.1.

mod activity;
mod files;
mod filter;
mod items;
mod patch;
pub(crate) mod token;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use filter::Filter;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use token::{EXPIRED, GOOD, LIMITED, Token};
use world::{Vault, World};

use crate::http::{self, Request, Response};
use crate::requests::Requests;

const VERSION: &str = "1.8.1";

/// A Connect server.
pub(crate) struct Connect {
    world: Mutex<World>,
    tokens: [(String, Token); 3],
    /// Whether a valid token has been presented: before that, a real server cannot read its vaults.
    unlocked: AtomicBool,
}

/// The result of a request.
type Answer = Result<Response, Refusal>;

impl Default for Connect {
    fn default() -> Connect {
        let tokens = [GOOD, LIMITED, EXPIRED].map(|token| (token.encode(), token));
        Connect { world: Mutex::new(World::new()), tokens, unlocked: AtomicBool::new(false) }
    }
}

impl Connect {
    pub(crate) fn reset(&self) {
        *self.world.lock().unwrap() = World::new();
    }

    /// The vault name or item title that is looked up, or the title of the item of the vault `Faults` that is fetched.
    ///
    /// Looking up a title in the vault `Faults` itself causes no fault: the item is found, and fetching it causes the fault.
    pub(crate) fn name_asked_for(&self, request: &Request) -> Option<String> {
        let faults = world::id("faults");
        match request.segments()[..] {
            ["v1", "vaults"] => Some(Filter::parse(&request.parameter("filter")?)?.value),
            ["v1", "vaults", vault, "items"] if vault != faults => {
                Some(Filter::parse(&request.parameter("filter")?)?.value)
            }
            ["v1", "vaults", vault, "items", item] if vault == faults => {
                self.world.lock().unwrap().fault_title(item).map(str::to_owned)
            }
            _ => None,
        }
    }

    /// The title of the item that a request has written.
    pub(crate) fn title_written(&self, request: &Request) -> Option<String> {
        let title = match request.segments()[..] {
            ["v1", "vaults", _, "items"] => request.json()["title"].as_str()?.to_owned(),
            ["v1", "vaults", _, "items", id] => {
                let world = self.world.lock().unwrap();
                let item = world.vaults.iter().flat_map(|vault| &vault.items).find(|item| item["id"] == id)?;
                item["title"].as_str()?.to_owned()
            }
            _ => return None,
        };
        Some(title)
    }

    pub(crate) fn answer(&self, request: &Request, requests: &Requests) -> Response {
        let answer = match (request.method.as_str(), &request.segments()[..]) {
            ("GET", ["heartbeat"]) => Ok(http::content(200, "text/plain", ".")),
            ("GET", ["metrics"]) => Ok(http::content(200, "text/plain", "# TYPE up gauge\nup 1\n")),
            ("GET", ["health"]) => Ok(self.health(request)),
            (method, ["v1", rest @ ..]) => {
                self.authorize(request).and_then(|token| self.answer_v1(method, rest, token, request, requests))
            }
            _ => Err(error(404, "not found")),
        };
        let version = HeaderValue::from_static(VERSION);
        let response = answer.unwrap_or_else(Response::from);
        http::with_header(response, HeaderName::from_static("1password-connect-version"), version)
    }

    fn health(&self, request: &Request) -> Response {
        let unlocked = self.authorize(request).is_ok() || self.unlocked.load(Ordering::Relaxed);
        let sync = if unlocked { "ACTIVE" } else { "TOKEN_NEEDED" };
        let dependencies = json!([
            { "service": "sync", "status": sync },
            { "service": "sqlite", "status": "ACTIVE", "message": "Connected to ./1password.sqlite" },
        ]);
        http::json(200, &json!({ "name": "1Password Connect API", "version": VERSION, "dependencies": dependencies }))
    }

    fn authorize(&self, request: &Request) -> Result<&Token, Refusal> {
        let bearer = request.bearer().ok_or_else(|| error(401, "Authentication: (No bearer token provided)"))?;
        let known = self.tokens.iter().find(|(text, _)| text == bearer);
        let (_, token) = known.ok_or_else(|| error(401, "Invalid token signature"))?;
        if token.is_expired() {
            return Err(error(401, "Authentication: (Invalid bearer token)"));
        }
        self.unlocked.store(true, Ordering::Relaxed);
        Ok(token)
    }

    fn answer_v1(&self, method: &str, path: &[&str], token: &Token, request: &Request, requests: &Requests) -> Answer {
        let world = &mut *self.world.lock().unwrap();
        match (method, path) {
            ("GET", ["activity"]) => activity::page(request, token, requests),
            ("GET", ["vaults"]) => list_vaults(world, token, request),
            (_, ["vaults", vault, path @ ..]) => {
                let vault = find_vault(world, token, vault)?;
                match (method, path) {
                    ("GET", []) => Ok(http::json(200, &describe(&world.vaults[vault]))),
                    ("GET", ["items"]) => items::list(world, vault, request),
                    ("POST", ["items"]) => items::create(world, vault, request),
                    (_, ["items", item]) => items::answer(world, vault, item, method, request),
                    ("GET", ["items", item, "files", path @ ..]) => files::answer(world, vault, item, path, request),
                    _ => Err(error(405, "method not allowed")),
                }
            }
            _ => Err(error(404, "not found")),
        }
    }
}

/// An error in the format of Connect.
pub(crate) struct Refusal {
    status: u16,
    message: String,
}

pub(crate) fn error(status: u16, message: &str) -> Refusal {
    Refusal { status, message: message.to_owned() }
}

impl From<Refusal> for Response {
    fn from(Refusal { status, message }: Refusal) -> Response {
        http::json(status, &json!({ "status": status, "message": message }))
    }
}

fn list_vaults(world: &World, token: &Token, request: &Request) -> Answer {
    let filter = filter(request, &["name", "title"])?;
    let vaults = world.vaults.iter().filter(|vault| token.sees(&vault.id));
    let list: Value =
        vaults.filter(|vault| filter.as_ref().is_none_or(|f| f.matches(vault.name))).map(describe).collect();
    Ok(http::json(200, &list))
}

/// The index of the vault with this id, if the token has access to it.
fn find_vault(world: &World, token: &Token, id: &str) -> Result<usize, Refusal> {
    check_id(id, "Invalid Vault UUID")?;
    let index = world.vaults.iter().position(|vault| vault.id == id);
    let index = index.ok_or_else(|| error(404, &format!("vault {id} not found")))?;
    if !token.sees(id) {
        return Err(error(403, &format!("Authorization: token does not have access to vault {id}")));
    }
    Ok(index)
}

fn describe(vault: &Vault) -> Value {
    json!({
        "id": vault.id,
        "name": vault.name,
        "description": "",
        "attributeVersion": 1,
        "contentVersion": vault.content_version,
        "items": vault.items.iter().filter(|item| item.get("state").is_none()).count(),
        "type": "USER_CREATED",
        "createdAt": "2026-01-02T03:04:05Z",
        "updatedAt": "2026-01-02T03:04:05Z",
    })
}

fn filter(request: &Request, attributes: &[&str]) -> Result<Option<Filter>, Refusal> {
    let Some(text) = request.parameter("filter") else {
        return Ok(None);
    };
    let filter = Filter::parse(&text).filter(|filter| attributes.contains(&filter.attribute.as_str()));
    filter.map(Some).ok_or_else(|| error(400, "Invalid filter"))
}

fn check_id(id: &str, message: &str) -> Result<(), Refusal> {
    let valid = id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if valid { Ok(()) } else { Err(error(400, message)) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
