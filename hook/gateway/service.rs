//! One request, from its token to its answer.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::denial::Denial;
use super::filter::Filter;
use super::issuer::Issuer;
use super::limit::Buckets;
use super::metrics::Metrics;
use super::record::{Record, Trail};
use super::route::Route;
use super::rule::Rule;
use super::scope::{ItemScope, Scope, VaultScope};
use super::settings::Settings;
use super::token::Unverified;
use super::upstream::{self, Upstream};

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// Refusals of one address that are told apart and recorded, in a second over time.
const REFUSALS_RATE: u32 = 20;
/// As many at once.
const REFUSALS_BURST: u32 = 500;

/// What an answer carries: JSON that we made, or a file as it comes from Connect.
pub type Body = Either<Full<Bytes>, reqwest::Body>;

/// All that requests need, as the settings have it.
pub struct Gateway {
    /// The settings.
    pub settings: Settings,
    /// The issuers, in the order of the settings.
    pub issuers: Vec<Rc<Issuer>>,
    /// What is counted.
    pub metrics: Rc<Metrics>,
    upstream: Upstream,
    trail: Trail,
    requests: Semaphore,
    identities: Buckets<(String, String)>,
    refusals: Buckets<IpAddr>,
}

impl Gateway {
    /// A gateway with these settings.
    pub fn new(
        settings: Settings,
        issuers: Vec<Rc<Issuer>>,
        upstream: Upstream,
        trail: Trail,
        metrics: Rc<Metrics>,
    ) -> Gateway {
        let limits = &settings.limits;
        Gateway {
            requests: Semaphore::new(usize::try_from(limits.requests.get()).unwrap_or(usize::MAX)),
            identities: Buckets::new(limits.rate.get(), limits.burst.get()),
            refusals: Buckets::new(REFUSALS_RATE, REFUSALS_BURST),
            settings,
            issuers,
            metrics,
            upstream,
            trail,
        }
    }

    /// Answers one request.
    pub async fn serve(&self, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/heartbeat") => whole(StatusCode::OK, TEXT, "."),
            (&Method::GET, "/health") => whole(StatusCode::OK, JSON, self.health().to_string()),
            _ if path == "/v1" || path.starts_with("/v1/") => self.serve_api(peer, &request).await,
            _ => refuse(&Denial::NotFound { what: "path".to_owned() }),
        }
    }

    /// Records a request whose head was too large to be read.
    pub fn note_large_request(&self, peer: SocketAddr) {
        let _: Result<(), Denial> = self.end(Record::begin(peer, ""), Err(Denial::TooLarge));
    }

    async fn serve_api(&self, peer: SocketAddr, request: &Request<Incoming>) -> Response<Body> {
        let mut record = Record::begin(peer, request.method().as_str());
        let outcome = match self.requests.try_acquire() {
            Ok(_permit) => self.decide(request, &mut record).await,
            Err(_) => Err(Denial::Busy),
        };
        let mut response = self.end(record, outcome).unwrap_or_else(|denial| refuse(&denial));
        if let Some(version) = self.upstream.version() {
            response.headers_mut().insert(upstream::VERSION, version);
        }
        response
    }

    async fn decide(&self, request: &Request<Incoming>, record: &mut Record) -> Result<Response<Body>, Denial> {
        let path = request.uri().path();
        let route = Route::parse(path);
        match &route {
            Ok(route) => record.route(route),
            Err(_) => record.path(path),
        }
        let (issuer, claims) = self.authenticate(request, record).await?;
        let mut reaches = Vec::new();
        for rule in self.rules(issuer) {
            if let Some(used) = rule.admits(issuer.settings.kind, &claims) {
                record.rule(&rule.name, used);
                reaches.extend(&rule.references);
            }
        }
        if reaches.is_empty() {
            return Err(Denial::NoRule);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if !self.identities.take((issuer.settings.url.clone(), subject.to_owned())) {
            return Err(Denial::TooMany);
        }
        if request.method() != Method::GET {
            return Err(Denial::Method);
        }
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        self.answer(&route?, &query, &Scope::new(reaches), record).await
    }

    fn rules(&self, issuer: &Issuer) -> impl Iterator<Item = &Rule> {
        self.settings.rules.iter().filter(move |rule| rule.issuer == issuer.settings.url)
    }

    /// Who the bearer of the token is: its issuer, and its claims.
    async fn authenticate(
        &self,
        request: &Request<Incoming>,
        record: &mut Record,
    ) -> Result<(&Rc<Issuer>, Map<String, Value>), Denial> {
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else { return Err(Denial::NoToken) };
        let text = header.to_str().map_err(|_| Denial::NotAToken)?;
        let (scheme, token) = text.split_once(' ').ok_or(Denial::NoToken)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denial::NoToken);
        }
        let unverified = Unverified::parse(token.trim())?;
        record.claimed(&unverified.issuer, &unverified.subject);
        let issuer = self.issuers.iter().find(|issuer| issuer.settings.url == unverified.issuer);
        let issuer = issuer.ok_or(Denial::Issuer)?;
        for (claim, texts) in
            self.rules(issuer).flat_map(|rule| rule.looks_at(issuer.settings.kind, &unverified.claims))
        {
            record.claim(claim, &texts);
        }
        let key = issuer.key(&unverified.key_id, unverified.signature).await?;
        let claims = unverified.verify(&key, &issuer.settings)?;
        record.verified(claims.get("jti").and_then(Value::as_str));
        Ok((issuer, claims))
    }

    async fn answer(
        &self,
        route: &Route,
        query: &Query,
        scope: &Scope<'_>,
        record: &mut Record,
    ) -> Result<Response<Body>, Denial> {
        if let Some(filter) = &query.filter {
            record.filter(filter.value());
        }
        match route {
            Route::Vaults => {
                let mut vaults: Vec<Object> =
                    self.upstream.read(&["vaults"], &[]).await?.ok_or(Denial::ConnectOdd)?.parse()?;
                vaults.retain_mut(|vault| match scope.of_vault(text(vault, "id"), text(vault, "name")) {
                    Some(seen) => {
                        seen.cut_vault(vault);
                        query.matches(vault)
                    }
                    None => false,
                });
                record.entries(vaults.len());
                Ok(json_of(&vaults))
            }
            Route::Vault(v) => {
                let seen = self.vault(v, scope).await?;
                let vault = self.upstream.read(&["vaults", v], &[]).await?.ok_or_else(|| not_found("vault", v))?;
                let mut vault: Object = vault.parse()?;
                seen.cut_vault(&mut vault);
                Ok(json_of(&vault))
            }
            Route::Items(v) => {
                let seen = self.vault(v, scope).await?;
                let filter = query.filter.as_ref().and_then(|filter| filter.for_connect("title"));
                let filter: Vec<(&str, &str)> = filter.iter().map(|filter| ("filter", filter.as_str())).collect();
                let items = self.upstream.read(&["vaults", v, "items"], &filter).await?;
                let mut items: Vec<Object> = items.ok_or_else(|| not_found("vault", v))?.parse()?;
                items.retain_mut(|item| match seen.of_item(item) {
                    Some(seen) => {
                        seen.cut_item(item);
                        query.matches(item)
                    }
                    None => false,
                });
                record.entries(items.len());
                Ok(json_of(&items))
            }
            Route::Item(v, i) => {
                let vault = self.vault(v, scope).await?;
                let (mut item, seen) = self.item(&vault, v, i, record).await?;
                seen.cut_item(&mut item);
                Ok(json_of(&item))
            }
            Route::Files(v, i) => {
                let vault = self.vault(v, scope).await?;
                let (item, seen) = self.item(&vault, v, i, record).await?;
                let seen = seen.files(&item);
                let files = self.upstream.read(&["vaults", v, "items", i, "files"], &[]).await?;
                let mut files: Vec<Object> = files.ok_or_else(|| not_found("item", i))?.parse()?;
                files.retain(|file| seen.contains(text(file, "id")));
                if query.inline_files {
                    // One by one: of all at once a large one that is hidden would be an error.
                    for file in &mut files {
                        let path = ["vaults", v, "items", i, "files", text(file, "id")];
                        let whole = self.upstream.read(&path, &query.inline()).await?;
                        *file = whole.ok_or_else(|| not_found("item", i))?.parse()?;
                    }
                }
                record.entries(files.len());
                Ok(json_of(&files))
            }
            Route::File(v, i, f) => {
                self.file(v, i, f, scope, record).await?;
                let file = self.upstream.read(&["vaults", v, "items", i, "files", f], &query.inline()).await?;
                let file: Object = file.ok_or_else(|| not_found("file", f))?.parse()?;
                Ok(json_of(&file))
            }
            Route::Content(v, i, f) => {
                self.file(v, i, f, scope, record).await?;
                let content = self.upstream.ask(&["vaults", v, "items", i, "files", f, "content"], &[]).await?;
                Ok(passed_on(content.ok_or_else(|| not_found("file", f))?))
            }
        }
    }

    /// What is seen of a vault.
    async fn vault<'a>(&self, id: &str, scope: &Scope<'a>) -> Result<VaultScope<'a>, Denial> {
        for missed in [false, true] {
            let vaults = self.upstream.vaults(missed).await?;
            let vault = vaults.iter().find(|vault| vault.id == id);
            if let Some(seen) = vault.and_then(|vault| scope.of_vault(&vault.id, &vault.name)) {
                return Ok(seen);
            }
        }
        Err(not_found("vault", id))
    }

    /// An item, and what is seen of it.
    async fn item<'a>(
        &self,
        vault: &VaultScope<'a>,
        vault_id: &str,
        id: &str,
        record: &mut Record,
    ) -> Result<(Object, ItemScope<'a>), Denial> {
        let item = self.upstream.read(&["vaults", vault_id, "items", id], &[]).await?;
        let item: Object = item.ok_or_else(|| not_found("item", id))?.parse()?;
        let seen = vault.of_item(&item).ok_or_else(|| not_found("item", id))?;
        record.item_version(item.get("version").and_then(Value::as_u64));
        Ok((item, seen))
    }

    /// Whether a file is seen.
    async fn file(&self, v: &str, i: &str, f: &str, scope: &Scope<'_>, record: &mut Record) -> Result<(), Denial> {
        let vault = self.vault(v, scope).await?;
        let (item, seen) = self.item(&vault, v, i, record).await?;
        if seen.files(&item).contains(f) { Ok(()) } else { Err(not_found("file", f)) }
    }

    /// Records how a request was decided. What cannot be recorded is not given.
    fn end<T>(&self, mut record: Record, outcome: Result<T, Denial>) -> Result<T, Denial> {
        let denied = outcome.as_ref().err();
        let is_of_a_stranger = |denial: &Denial| !record.is_verified() || matches!(denial.status(), 403 | 429);
        let is_flood = denied.is_some_and(is_of_a_stranger) && !self.refusals.take(record.peer().ip());
        record.end(outcome.as_ref().map(drop));
        self.metrics.request(denied.map_or("allowed", Denial::reason), record.seconds());
        if is_flood {
            return Err(Denial::TooMany);
        }
        match self.trail.write(&record) {
            Ok(()) => outcome,
            Err(error) => {
                super::note(&format!("cannot keep the audit trail: {error}"));
                outcome.and(Err(Denial::Audit))
            }
        }
    }

    fn health(&self) -> Value {
        let status = |is_up| if is_up { "ACTIVE" } else { "UNAVAILABLE" };
        let keys = self.issuers.iter().all(|issuer| issuer.requests().0 == 0 || issuer.age().is_some());
        json!({
            "name": super::PROGRAM,
            "version": env!("CARGO_PKG_VERSION"),
            "dependencies": [
                { "service": "connect", "status": status(self.upstream.is_up()) },
                { "service": "issuers", "status": status(keys) },
            ],
        })
    }
}

type Object = Map<String, Value>;

/// The parts of a query that Connect knows.
struct Query {
    filter: Option<Filter>,
    inline_files: bool,
}

impl Query {
    fn parse(text: &str) -> Result<Query, Denial> {
        let mut query = Query { filter: None, inline_files: false };
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "filter" if query.filter.is_some() => return Err(Denial::Invalid { what: "Invalid filter" }),
                "filter" => query.filter = Some(Filter::parse(&value)?),
                "inline_files" => query.inline_files = value == "true",
                _ => {}
            }
        }
        Ok(query)
    }

    fn matches(&self, object: &Object) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(object))
    }

    fn inline(&self) -> Vec<(&'static str, &'static str)> {
        if self.inline_files { vec![("inline_files", "true")] } else { Vec::new() }
    }
}

fn text<'a>(object: &'a Object, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn not_found(kind: &str, id: &str) -> Denial {
    Denial::NotFound { what: format!("{kind} {id}") }
}

fn json_of(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole(StatusCode::OK, JSON, bytes),
        Err(_) => refuse(&Denial::ConnectOdd),
    }
}

/// A refusal, as Connect words one.
fn refuse(denial: &Denial) -> Response<Body> {
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
    response
}

fn whole(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The content of a file as it comes, with what says what it is.
fn passed_on(content: reqwest::Response) -> Response<Body> {
    let content: http::Response<reqwest::Body> = content.into();
    let (head, body) = content.into_parts();
    let mut response = Response::new(Either::Right(body));
    for name in [CONTENT_TYPE, CONTENT_DISPOSITION] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
