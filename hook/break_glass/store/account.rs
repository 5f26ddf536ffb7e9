//! What is known of an emergency: by whom, why, until when, and which secrets.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::break_glass::Kept;

/// The description of an emergency.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The emergency's id in all records.
    pub id: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Why it was opened.
    pub reason: String,
    /// The ticket, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The operators who opened it.
    pub operators: Vec<String>,
    /// The SHA-256 of the sealed file.
    pub file: String,
    /// The secrets in the store.
    pub secrets: Vec<Kept>,
}

/// The file `emergency`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) account: Account,
    /// The end in seconds since boot, a clock that cannot be set back.
    pub(super) until_uptime: u64,
    /// The serial number of the key in the keyring.
    pub(super) key: i32,
}
