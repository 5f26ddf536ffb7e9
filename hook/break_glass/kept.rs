//! What is kept for an emergency.

use serde::{Deserialize, Serialize};

/// A secret that is kept for an emergency, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// As containers request it, without its query.
    pub reference: String,
    /// The item's id.
    pub item: String,
    /// The item's version when it was read.
    pub version: u64,
}

/// A time in messages: `2026-01-02 03:04 UTC`.
pub fn time(time: &jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
