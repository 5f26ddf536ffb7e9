//! What the broker says of a running container.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A running container that is updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Its id.
    pub container: String,
    /// The number of its set of files, from 1 for that of the start.
    pub generation: u64,
    /// Since when it has these files.
    pub since: Timestamp,
    /// When its files were last known to be current, by this broker.
    pub checked: Option<Timestamp>,
    /// Why the last update failed, if it did.
    pub error: Option<String>,
}
