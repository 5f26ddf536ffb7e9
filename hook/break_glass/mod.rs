//! Break-glass: how containers start while 1Password or the KMS does not answer, and what that costs.
//!
//! ```text
//! all is well    seal ──► sealed file, kept offline                                   file/
//! an outage      open ──► store: a tmpfs of root's alone, until its time is over      store, keyring
//!                hook ──► the normal path first, then the store, and a record         fallback, channel
//! afterwards     hook ──► a warning, then a refusal, until the secret was changed     ending, ledger, rotation
//! ```
//!
//! The hook uses the store, the channel and the ledger, and nothing of `file/`: when no emergency is open and none was, it pays two
//! `open`s that fail.

pub mod channel;
pub mod ending;
mod error;
pub mod fallback;
pub mod file;
mod keyring;
pub mod ledger;
pub mod lock;
pub mod rotation;
pub mod store;

use serde::{Deserialize, Serialize};

pub use self::error::BreakGlassError;

/// A secret that is kept for an emergency, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// As containers ask for it, without its query.
    pub reference: String,
    /// The item's id.
    pub item: String,
    /// The item's version when it was read.
    pub version: u64,
}

/// A time as people read it: `2026-01-02 03:04 UTC`.
pub fn time(time: &jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
