//! The broker: one daemon on a host that resolves secrets on behalf of the hook.
//!
//! ```text
//! hook ── client ──► socket ──► server ─► start: decide ─► resolve ─► fill ─► send ─► report ─► record
//!                    protocol             peer    loaded, source                       connection
//! ```
//!
//! It holds the credentials, and keeps connections and access tokens between starts; each start has its own secrets and data keys. The
//! hook does what must be done next to the container. Start reading at [`start`], which is the story of one start.
//!
//! One thread serves all starts, so that nothing needs a lock. Files that a disk or another process may hold up have threads of their own:
//! those of [`blocking`] for records, those of [`source`] for requests and sealed values.

pub mod blocking;
pub mod client;
mod client_error;
pub mod connection;
pub mod error;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod live;
pub mod loaded;
pub mod metrics;
pub mod nri_metrics;
pub mod peer;
pub mod program;
pub mod protocol;
pub mod revoked;
pub mod server;
pub mod source;
pub mod start;
mod start_error;
pub mod users;
pub mod wire;

pub use self::error::PROGRAM;
pub use self::program::{HELP, run};
