//! Break-glass: how containers start while 1Password or the KMS does not answer, and what must be done afterwards.
//!
//! ```text
//! all is well    seal ──► sealed file, kept offline                                     file/
//! an outage      open ──► store: a tmpfs for root alone, until the emergency ends       session, store, keyring
//!                hook ──► the normal way first, then the store, and a record            resolve, channel
//! afterwards     hook ──► a warning, then a refusal, until the secret was rotated       ending, ledger, rotation
//! ```
//!
//! A container start calls [`resolve`] and nothing else. It does not use `file/`. What changes anything does so in a
//! [`Session`](session::Session).

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
    /// As containers ask for it, without its query.
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
