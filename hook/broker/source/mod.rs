//! The source that all starts of a broker share: one request answers all starts that want the same at the same time, a source that does
//! not answer is given time, and an outage can be bridged with sealed values that were fetched earlier.
//!
//! | module | what it does |
//! |---|---|
//! | `shared` | the story of one start: known, joined or asked, and what happens in an outage |
//! | `calls` | asks the source on the thread of `worker`, for all that wait (`flights`) |
//! | `fetches` | what updates that began at the same time have fetched |
//! | `state` | what is shared: the client (`opened`), `breaker`, `budget`, `fields` |
//! | [`sealed_values`], [`sealed_files`] | sealed values on disk for an outage |

mod breaker;
mod budget;
mod calls;
mod counters;
mod fetches;
mod fields;
mod flights;
mod log;
mod opened;
pub mod sealed_files;
pub mod sealed_values;
mod shared;
mod snapshot;
mod state;
mod worker;

pub use self::counters::Sample;
pub use self::fetches::Fetches;
pub use self::shared::Shared;
pub use self::snapshot::{BreakerState, SealedSummary, Snapshot};
pub use self::state::Payer;
