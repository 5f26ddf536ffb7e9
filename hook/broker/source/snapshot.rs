//! The state of the shared source, for `check` and `explain`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The state of the shared source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The address of the source, or its name.
    pub server: String,
    /// The circuit breaker.
    pub breaker: BreakerState,
    /// The requests of the last hour.
    pub requests: u64,
    /// The requests that the settings allow per hour, if they have a limit.
    pub requests_per_hour: Option<u32>,
    /// How old a fetched value may be, in seconds.
    pub max_age_seconds: u64,
    /// The number of values that are not older.
    pub fresh: usize,
    /// The number of items whose ids are remembered.
    pub ids: usize,
    /// What is stored for an outage, if the settings allow its use.
    pub sealed: Option<SealedSummary>,
}

/// The state of the circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum BreakerState {
    /// The source is asked.
    Closed {
        /// The failures since the last answer.
        failures: u32,
    },
    /// The source is not asked.
    Open {
        /// Why.
        cause: String,
    },
    /// One request tests whether the source answers again.
    Probing {
        /// Why it was not asked before.
        cause: String,
    },
}

/// What is stored for an outage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSummary {
    /// The number of values.
    pub values: usize,
    /// When the oldest of them was fetched.
    pub oldest: Option<Timestamp>,
}
