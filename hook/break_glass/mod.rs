//! Break-glass: how containers start while 1Password or the KMS does not answer, and what must be done afterwards.
//!
//! ```text
//! before         seal ──► sealed file, kept offline                                     file/
//! during         open ──► store: a tmpfs for root only, until the emergency ends        session, store, keyring
//! an outage      hook ──► the source first, then the store, and a record                resolve, channel
//! afterwards     hook ──► a warning, then a refusal, until the secret is rotated        ending, ledger, rotation
//! ```
//!
//! A container start calls only [`resolve`], which does not use `file/`. All changes are made in a [`Session`](session::Session).

pub mod channel;
pub mod ending;
mod error;
pub mod file;
mod keyring;
pub mod ledger;
mod lock;
mod resolve;
pub mod rotation;
pub mod session;
pub mod store;

use serde::{Deserialize, Serialize};

pub use self::error::BreakGlassError;
pub use self::resolve::resolve;

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
