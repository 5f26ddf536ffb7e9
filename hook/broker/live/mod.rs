//! Updates of running containers, and what is removed from them.
//!
//! ```text
//! start ── register ──► running ◄── poll: one list of each vault ──► update: decide ─► resolve ─► fill ─► record ─► replace ─► signal
//!                         state                 refresh ──────────────┘
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `state` | which container has which set of files, without a secret |
//! | `directory` | the states on disk, which outlive the broker |
//! | `running` | one container: its process, its state |
//! | `registry` | all of them, and whose turn it is to change their files |
//! | `updates`, `poll` | when they are updated: if they have other items than 1Password |
//! | `update` | the story of one update |
//! | `withdraw`, `revoke` | what is removed from them: what is revoked, and what was delivered for a time |
//! | `remove` | the story of one removal |
//! | `list` | what is said of them |
//!
//! The kernel's part is [`Frozen::replace`](crate::deliver::Frozen::replace) and [`Hold::remove`](crate::deliver::Hold::remove).

mod directory;
mod error;
mod list;
#[cfg(test)]
mod orders;
mod poll;
mod registry;
mod remove;
mod revoke;
mod running;
mod state;
pub mod summary;
mod update;
mod updates;
mod withdraw;

use crate::deliver::{UnsupportedError, require_replace};
use crate::fault::{AnyFault, Class, Fault};
use crate::settings::{Settings, SourceName};
use crate::source;

pub use self::error::LiveError;
pub use self::registry::Live;
pub use self::state::{Asked, State, readings};
pub use self::withdraw::revocations;

/// Checks that a host can update the container that is being started.
///
/// # Errors
/// The kernel is too old, or the source reports no versions.
pub fn require(settings: &Settings, carries: bool) -> Result<(), AnyFault> {
    if source::chosen(settings)? == SourceName::Op {
        return Err(NoVersions.into());
    }
    Ok(require_replace(carries)?)
}

/// The source does not list versions.
#[derive(Debug, thiserror::Error)]
#[error("refusing to deliver files that follow changes: run.secrets.update needs 1Password Connect as the source")]
struct NoVersions;

impl Fault for NoVersions {
    fn class(&self) -> Class {
        Class::Settings
    }

    fn hint(&self) -> Option<String> {
        UnsupportedError::Replace.hint()
    }
}
