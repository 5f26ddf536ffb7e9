//! Metrics: counts and times, without identities.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::issuer::Issuer;

const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

type Labels = [(&'static str, String); 1];

/// Counters and gauges of one process.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    seconds: Histogram,
    /// Open connections.
    pub connections: Gauge,
    refused_connections: Counter,
    reloads: Family<Labels, Counter>,
    /// Whether the current settings are those of the file at the last reload.
    settings_current: Gauge,
    keys_requests: Family<Labels, Gauge>,
    keys_failures: Family<Labels, Gauge>,
    keys_age: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    /// All at zero.
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("oci_secrets_gateway"),
            requests: Family::default(),
            seconds: Histogram::new(SECONDS),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            reloads: Family::default(),
            settings_current: Gauge::default(),
            keys_requests: Family::default(),
            keys_failures: Family::default(),
            keys_age: Family::default(),
        };
        metrics.settings_current.set(1);
        let registry = &mut metrics.registry;
        registry.register("requests", "Requests by outcome", metrics.requests.clone());
        registry.register_with_unit("request_duration", "Time per request", Unit::Seconds, metrics.seconds.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "refused_connections",
            "Connections refused because their client had too many busy ones",
            metrics.refused_connections.clone(),
        );
        registry.register("reloads", "Reloads of the settings", metrics.reloads.clone());
        registry.register(
            "settings_current",
            "1 if the current settings are those of the file, 0 if the file could not be used",
            metrics.settings_current.clone(),
        );
        registry.register("issuer_requests", "Fetches of an issuer's keys", metrics.keys_requests.clone());
        registry.register("issuer_failures", "Failed fetches of an issuer's keys", metrics.keys_failures.clone());
        registry.register_with_unit(
            "issuer_keys_age",
            "Age of the cached keys of an issuer",
            Unit::Seconds,
            metrics.keys_age.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts a request with this outcome.
    pub fn request(&self, outcome: &str, seconds: f64) {
        self.requests.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        self.seconds.observe(seconds);
    }

    /// Counts a connection that was refused.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Counts a reload.
    pub fn reload(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.reloads.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        self.settings_current.set(succeeded.into());
    }

    /// All metrics as text.
    pub fn to_text(&self, issuers: &[Rc<Issuer>]) -> String {
        for family in [&self.keys_requests, &self.keys_failures] {
            family.clear();
        }
        self.keys_age.clear();
        for issuer in issuers {
            let label = [("issuer", issuer.settings.url.clone())];
            let (asked, failed) = issuer.fetches();
            self.keys_requests.get_or_create(&label).set(asked.cast_signed());
            self.keys_failures.get_or_create(&label).set(failed.cast_signed());
            if let Some(age) = issuer.age() {
                self.keys_age.get_or_create(&label).set(age.as_secs_f64());
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
