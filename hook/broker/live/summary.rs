//! What the broker says of a running container that it has delivered to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The longest part of a reason in an answer, so that each container takes less than a KiB.
const REASON_CHARS_MAX: usize = 300;

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Its id.
    pub container: String,
    /// The number of its first process.
    pub pid: i32,
    /// The number of its set of files, from 1 for that of the start.
    pub generation: u64,
    /// Since when it has these files.
    pub since: Timestamp,
    /// When its files were last known to be current, by this broker.
    pub checked: Option<Timestamp>,
    /// Why its last update failed, or files could not be removed.
    pub error: Option<String>,
    /// Whether its files follow changes.
    pub live: bool,
    /// How many references were removed.
    pub removed: usize,
    /// In how many seconds all files are removed; 0 if they were.
    pub withdrawn_in: Option<u64>,
    /// Why the settings would not give it its files now, if they would not.
    pub ungranted: Option<String>,
}

/// A reason as an answer has room for it.
pub fn shortened(reason: String) -> String {
    match reason.char_indices().nth(REASON_CHARS_MAX) {
        None => reason,
        Some((end, _)) => format!("{}…", &reason[..end]),
    }
}
