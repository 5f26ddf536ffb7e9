//! Metrics: counts and times, without identities.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];

type Labels = [(&'static str, &'static str); 1];

/// Counters and gauges of one process.
pub struct Metrics {
    registry: Registry,
    starts: Family<Labels, Counter>,
    seconds: Histogram,
    connections: Gauge,
    refused_connections: Counter,
    reloads: Family<Labels, Counter>,
    settings_current: Gauge,
}

impl Default for Metrics {
    /// All at zero.
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("oci_secrets_broker"),
            starts: Family::default(),
            seconds: Histogram::new(SECONDS),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            reloads: Family::default(),
            settings_current: Gauge::default(),
        };
        metrics.settings_current.set(1);
        let registry = &mut metrics.registry;
        registry.register("starts", "Container starts by outcome", metrics.starts.clone());
        registry.register_with_unit(
            "start_duration",
            "Time from the request of a start to its receipt",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "refused_connections",
            "Connections refused because there were too many, in all or of one user",
            metrics.refused_connections.clone(),
        );
        registry.register("reloads", "Reloads of the settings", metrics.reloads.clone());
        registry.register(
            "settings_current",
            "1 if the current settings are those of the file, 0 if the file could not be used",
            metrics.settings_current.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts a start with this outcome.
    pub fn start(&self, outcome: &'static str, seconds: f64) {
        self.starts.get_or_create(&[("outcome", outcome)]).inc();
        self.seconds.observe(seconds);
    }

    /// Counts a connection that was refused.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Counts a reload.
    pub fn reload(&self, succeeded: bool) {
        self.reloads.get_or_create(&[("outcome", if succeeded { "success" } else { "failure" })]).inc();
        self.settings_current.set(succeeded.into());
    }

    /// All metrics as text.
    pub fn to_text(&self, connections: u32) -> String {
        self.connections.set(connections.into());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
