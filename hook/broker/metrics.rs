//! Metrics: counts and times, without identities.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::source::Sample;

const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];

type Labels = [(&'static str, &'static str); 1];

/// Counters and gauges of one process.
#[derive(Debug)]
pub struct Metrics {
    starts: Family<Labels, Counter>,
    seconds: Histogram,
    refused_connections: Counter,
    reloads: Family<Labels, Counter>,
    settings_current: Gauge,
}

impl Default for Metrics {
    /// All at zero.
    fn default() -> Metrics {
        let settings_current = Gauge::default();
        settings_current.set(1);
        Metrics {
            starts: Family::default(),
            seconds: Histogram::new(SECONDS),
            refused_connections: Counter::default(),
            reloads: Family::default(),
            settings_current,
        }
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

    /// All metrics as text, with those of the source, of the NRI plugin and of updates.
    pub fn to_text(&self, connections: u32, more: Vec<Sample>) -> String {
        let mut registry = Registry::with_prefix("oci_secrets_broker");
        registry.register("starts", "Container starts by outcome", self.starts.clone());
        let help = "Time from the request of a start to its receipt";
        registry.register_with_unit("start_duration", help, Unit::Seconds, self.seconds.clone());
        registry.register("connections", "Open connections", ConstGauge::new(i64::from(connections)));
        let help = "Connections refused because there were too many, in all or of one user";
        registry.register("refused_connections", help, self.refused_connections.clone());
        registry.register("reloads", "Reloads of the settings", self.reloads.clone());
        let help = "1 if the current settings are those of the file, 0 if the file could not be used";
        registry.register("settings_current", help, self.settings_current.clone());
        for Sample { name, help, is_counter, value } in more {
            match is_counter {
                true => registry.register(name, help, ConstCounter::new(value)),
                false => registry.register(name, help, ConstGauge::new(value.cast_signed())),
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_metrics_of_the_source_too() {
        let metrics = Metrics::default();
        metrics.start("delivered", 0.002);
        let sample = |name, is_counter| Sample { name, help: "x", is_counter, value: 7 };
        let text = metrics.to_text(3, vec![sample("source_requests", true), sample("sealed_values", false)]);
        for line in [
            "oci_secrets_broker_starts_total{outcome=\"delivered\"} 1",
            "oci_secrets_broker_connections 3",
            "oci_secrets_broker_settings_current 1",
            "oci_secrets_broker_source_requests_total 7",
            "oci_secrets_broker_sealed_values 7",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }
}
