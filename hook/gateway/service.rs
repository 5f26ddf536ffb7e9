//! One request, from its token to its response.

use std::net::SocketAddr;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::answer::Reading;
use super::claim::texts;
use super::client_network::ClientNetwork;
use super::connections::{Busy, Connection};
use super::denial::Denial;
use super::issuer::Issuer;
use super::limit::Buckets;
use super::log;
use super::metrics::Metrics;
use super::query::Query;
use super::record::{Record, Trail};
use super::response::{self, Body, Content};
use super::route::Route;
use super::rule::Rule;
use super::scope::Scope;
use super::settings::Settings;
use super::slots::{Slot, Slots};
use super::token::Unverified;
use super::upstream::{self, Upstream};

/// Refusals of one client that are recorded, per second.
const REFUSALS_RATE: u32 = 20;
/// The same in a burst.
const REFUSALS_BURST: u32 = 500;
/// Refusals of all clients that are recorded, per second: a client can have any number of addresses.
const ALL_REFUSALS_RATE: u32 = 100;
/// The same in a burst.
const ALL_REFUSALS_BURST: u32 = 5_000;

type Identity = (String, String);

/// What serves requests under one version of the settings.
pub struct Gateway {
    /// The settings.
    pub settings: Settings,
    /// The issuers, in the order of the settings.
    pub issuers: Vec<Rc<Issuer>>,
    /// The metrics.
    pub metrics: Rc<Metrics>,
    upstream: Upstream,
    trail: Trail,
    slots: Slots<Identity>,
    rates: Buckets<Identity>,
    refusals: Buckets<ClientNetwork>,
    all_refusals: Buckets<()>,
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
            slots: Slots::new(limits.requests.get(), limits.requests_per_identity.get()),
            rates: Buckets::new(limits.rate.get(), limits.burst.get()),
            refusals: Buckets::new(REFUSALS_RATE, REFUSALS_BURST),
            all_refusals: Buckets::new(ALL_REFUSALS_RATE, ALL_REFUSALS_BURST),
            settings,
            issuers,
            metrics,
            upstream,
            trail,
        }
    }

    /// Serves one request.
    pub async fn serve(
        &self,
        peer: SocketAddr,
        connection: &Connection,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/heartbeat") => response::whole(StatusCode::OK, response::TEXT, "."),
            (&Method::GET, "/health") => response::whole(StatusCode::OK, response::JSON, self.health().to_string()),
            _ if path == "/v1" || path.starts_with("/v1/") => self.serve_api(peer, connection, request).await,
            _ => {
                let mut record = Record::begin(peer, request.method().as_str());
                record.path(path);
                let denial = match path {
                    "/heartbeat" | "/health" => Denial::Method,
                    _ => Denial::NotFound { what: "path".to_owned() },
                };
                response::refuse(&self.end::<()>(record, Err(denial)).err().unwrap_or(Denial::Audit))
            }
        }
    }

    /// Records a request that HTTP itself does not allow.
    pub fn record_unreadable(&self, peer: SocketAddr, is_too_large: bool) {
        let denial = if is_too_large { Denial::TooLarge } else { Denial::Invalid { what: "Invalid request" } };
        let _: Result<(), Denial> = self.end(Record::begin(peer, ""), Err(denial));
    }

    async fn serve_api(
        &self,
        peer: SocketAddr,
        connection: &Connection,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        let mut record = Record::begin(peer, request.method().as_str());
        let outcome = self.decide(connection, request, &mut record).await;
        let mut response = match self.end(record, outcome) {
            Ok((answer, slot, busy)) => response::of_answer(answer, slot, busy),
            Err(denial) => response::refuse(&denial),
        };
        if let Some(version) = self.upstream.version() {
            response.headers_mut().insert(upstream::VERSION, version);
        }
        response
    }

    /// Decides on a request and reads what it asks for. Nothing that others need is held before the token is verified.
    async fn decide(
        &self,
        connection: &Connection,
        request: &Request<Incoming>,
        record: &mut Record,
    ) -> Result<(Content, Slot, Busy), Denial> {
        let path = request.uri().path();
        let route = Route::parse(path);
        match &route {
            Ok(route) => record.route(route),
            Err(_) => record.path(path),
        }
        let (issuer, token) = self.authenticate(request, record).await?;
        let busy = connection.serve();
        let mut reaches = Vec::new();
        for rule in self.rules(issuer) {
            if let Some(matching) = rule.admits(issuer.settings.platform, &token.claims) {
                record.rule(&rule.name, matching);
                reaches.extend(&rule.references);
            }
        }
        if reaches.is_empty() {
            return Err(Denial::NoRule);
        }
        let identity = (issuer.settings.url.clone(), token.subject);
        if !self.rates.take(identity.clone()) {
            return Err(Denial::TooMany);
        }
        if request.method() != Method::GET {
            return Err(Denial::Method);
        }
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        if let Some(filter) = &query.filter {
            record.filter(filter.value());
        }
        let (route, slot) = (route?, self.slots.take(identity).await?);
        let reading = Reading { upstream: &self.upstream, scope: &Scope::new(reaches), query: &query };
        Ok((reading.answer(&route, record).await?, slot, busy))
    }

    fn rules(&self, issuer: &Issuer) -> impl Iterator<Item = &Rule> {
        self.settings.rules.iter().filter(move |rule| rule.issuer == issuer.settings.url)
    }

    /// The token of a request, verified, and its issuer.
    async fn authenticate<'r>(
        &self,
        request: &'r Request<Incoming>,
        record: &mut Record,
    ) -> Result<(&Rc<Issuer>, Unverified<'r>), Denial> {
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else { return Err(Denial::NoToken) };
        let text = header.to_str().map_err(|_| Denial::NotAToken)?;
        let (scheme, token) = text.split_once(' ').ok_or(Denial::NoToken)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denial::NoToken);
        }
        let token = Unverified::parse(token.trim_matches(' '))?;
        record.claimed(&token.issuer, &token.subject);
        let issuer = self.issuers.iter().find(|issuer| issuer.settings.url == token.issuer);
        let issuer = issuer.ok_or(Denial::Issuer)?;
        let required = self.rules(issuer).flat_map(|rule| rule.requirements.keys().map(String::as_str));
        for claim in required.chain(issuer.settings.platform.fence_claims().iter().copied()) {
            record.claim(claim, &texts(&token.claims, claim));
        }
        let key = issuer.key(&token.key_id, token.signature).await?;
        token.verify(&key, &issuer.settings)?;
        record.verified(token.id.as_deref());
        Ok((issuer, token))
    }

    /// Records a decision. What cannot be recorded is refused.
    fn end<T>(&self, mut record: Record, outcome: Result<T, Denial>) -> Result<T, Denial> {
        let denial = outcome.as_ref().err();
        let is_limited = |denial: &Denial| !record.is_verified() || matches!(denial.status(), 403 | 429);
        let is_flood = denial.is_some_and(is_limited)
            && !(self.refusals.take(record.peer().ip().into()) && self.all_refusals.take(()));
        record.end(outcome.as_ref().map(drop));
        self.metrics.request(denial.map_or("allowed", Denial::reason), record.seconds());
        if is_flood {
            return Err(Denial::TooMany);
        }
        match self.trail.write(&record) {
            Ok(()) => outcome,
            Err(error) => {
                log::note(&format!("cannot write to the audit trail: {error}"));
                outcome.and(Err(Denial::Audit))
            }
        }
    }

    fn health(&self) -> Value {
        let status = |is_up| if is_up { "ACTIVE" } else { "UNAVAILABLE" };
        let keys = self.issuers.iter().all(|issuer| issuer.fetches().0 == 0 || issuer.age().is_some());
        json!({
            "name": log::PROGRAM,
            "version": env!("CARGO_PKG_VERSION"),
            "dependencies": [
                { "service": "connect", "status": status(self.upstream.is_up()) },
                { "service": "issuers", "status": status(keys) },
            ],
        })
    }
}
