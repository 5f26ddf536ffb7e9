//! Break-glass: how containers start while 1Password or the KMS does not answer, and what must be done afterwards.
//!
//! ```text
//! before         seal ──► sealed file, kept offline                                     file/
//! during         open ──► store: a tmpfs for root only, until the emergency ends        session, store, keyring
//! an outage      hook ──► the source first, then the store, and a record                resolve, channel
//! afterwards     hook ──► a warning, then a refusal, until the secret is rotated        ending, ledger, rotation
//! ```
//!
//! A container start calls only [`resolve()`], which does not use `file/`. All changes are made in a [`Session`](session::Session).

pub mod channel;
pub mod ending;
mod error;
pub mod file;
mod kept;
mod keyring;
pub mod ledger;
mod lock;
mod resolve;
pub mod rotation;
pub mod session;
pub mod store;

pub use self::error::BreakGlassError;
pub use self::kept::{Kept, time};
pub use self::resolve::resolve;
