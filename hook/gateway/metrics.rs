//! What monitoring is told: counts and times, of nobody in particular.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::issuer::Issuer;

/// The type of the text, as [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) has it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

type Labels = [(&'static str, String); 1];

/// Counters and gauges of one process.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    seconds: Histogram,
    /// Connections that are open.
    pub connections: Gauge,
    reloads: Family<Labels, Counter>,
    /// Whether the settings in force are those of the file, as far as was tried.
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
            reloads: Family::default(),
            settings_current: Gauge::default(),
            keys_requests: Family::default(),
            keys_failures: Family::default(),
            keys_age: Family::default(),
        };
        metrics.settings_current.set(1);
        let registry = &mut metrics.registry;
        registry.register("requests", "Requests by how they were decided", metrics.requests.clone());
        registry.register_with_unit("request_duration", "Time per request", Unit::Seconds, metrics.seconds.clone());
        registry.register("connections", "Connections that are open", metrics.connections.clone());
        registry.register("reloads", "Times that the settings were read anew", metrics.reloads.clone());
        registry.register(
            "settings_current",
            "1 if the settings in force are those of the file, 0 if the file was refused",
            metrics.settings_current.clone(),
        );
        registry.register(
            "issuer_requests",
            "Times that an issuer was asked for its keys",
            metrics.keys_requests.clone(),
        );
        registry.register("issuer_failures", "Times that it did not tell them", metrics.keys_failures.clone());
        registry.register_with_unit(
            "issuer_keys_age",
            "Age of what is known of its keys",
            Unit::Seconds,
            metrics.keys_age.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts a request, decided like this.
    pub fn request(&self, outcome: &str, seconds: f64) {
        self.requests.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        self.seconds.observe(seconds);
    }

    /// Counts a reload.
    pub fn reload(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.reloads.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        self.settings_current.set(succeeded.into());
    }

    /// The text that monitoring asks for.
    pub fn to_text(&self, issuers: &[Rc<Issuer>]) -> String {
        for family in [&self.keys_requests, &self.keys_failures] {
            family.clear();
        }
        self.keys_age.clear();
        for issuer in issuers {
            let label = [("issuer", issuer.settings.url.clone())];
            let (asked, failed) = issuer.requests();
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
