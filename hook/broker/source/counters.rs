//! What the shared source counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the broker began.
#[derive(Default)]
pub(super) struct Counters {
    /// References that were asked for.
    pub(super) fetches: AtomicU64,
    /// Requests that a start waited for, but did not cause.
    pub(super) coalesced: AtomicU64,
    pub(super) fresh: AtomicU64,
    pub(super) missing: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) paused: AtomicU64,
    pub(super) probes: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) over_budget: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) outage_values: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name, without the prefix of the program.
    pub name: &'static str,
    /// The description.
    pub help: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// The value.
    pub value: u64,
}

impl Counters {
    /// All counters with their names.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let counter = |name, help, counter: &AtomicU64| Sample {
            name,
            help,
            is_counter: true,
            value: counter.load(Ordering::Relaxed),
        };
        vec![
            counter("source_fetches", "References that starts asked for", &self.fetches),
            counter("source_coalesced", "References answered by a request of another start", &self.coalesced),
            counter("source_fresh", "References answered by a value within max-age", &self.fresh),
            counter("source_missing", "References answered by an absence found a second ago", &self.missing),
            counter("source_failures", "Requests that the source did not answer", &self.failures),
            counter("source_paused", "References refused while the circuit breaker was open", &self.paused),
            counter("source_probes", "Probes of the circuit breaker", &self.probes),
            counter("source_breaker_opened", "Times that the circuit breaker opened", &self.opened),
            counter(
                "source_over_budget",
                "References refused by requests-per-hour or a share of it",
                &self.over_budget,
            ),
            counter("source_reconnects", "New clients after a failure or a change of a file", &self.reconnects),
            counter("source_outage_values", "References answered by a stored sealed value", &self.outage_values),
        ]
    }
}
