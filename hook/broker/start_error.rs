//! Why a start gets nothing from the broker, other than what its secrets or its container are the reason of.

use std::{fmt, io};

use crate::errno::SyscallError;
use crate::fault::{Class, Fault};

/// A reason that is not for every user of the host: it can name servers, paths, and what others have asked for.
#[derive(Debug, thiserror::Error)]
#[error("the broker cannot deliver: the record of start {start} has the reason, for root")]
pub(super) struct Withheld {
    /// The class of the reason.
    pub(super) class: Class,
    /// The id of the start.
    pub(super) start: String,
}

impl Fault for Withheld {
    fn class(&self) -> Class {
        self.class
    }

    fn hint(&self) -> Option<String> {
        Some("root of this host reads it with `oci-secrets audit show`".into())
    }
}

/// What is wrong with a request that no hook of ours sends, or with the hook afterwards.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestFault {
    /// The id of the start.
    #[error("the request has no valid id")]
    Id,
    /// The container's process.
    #[error("no descriptor of the container's process came with what the hook has found")]
    NoProcess,
    /// Neither the spec nor an annotation names an owner.
    #[error("no owner for the secrets: the spec has no process.user")]
    NoOwner,
    /// The tmpfs.
    #[error("cannot keep hold of the tmpfs")]
    Hold { source: SyscallError },
    /// The hook was killed, or gave up.
    #[error("the hook ended before the record of the start was written")]
    HookEnded,
    /// The hook is silent.
    #[error("the hook did not report in time {awaited}")]
    NoReport { awaited: Awaited },
    /// Something else was sent.
    #[error("the hook did not report {awaited}, but sent something else")]
    OddReport { awaited: Awaited },
}

/// What a hook is to report.
#[derive(Clone, Copy, Debug)]
pub(super) enum Awaited {
    /// The container.
    Container,
    /// The end.
    Files,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Awaited::Container => "what it found of the container",
            Awaited::Files => "what became of the files",
        })
    }
}

impl RequestFault {
    /// Why there is no report of this.
    pub(super) fn of(error: &io::Error, awaited: Awaited) -> RequestFault {
        match error.kind() {
            io::ErrorKind::TimedOut => RequestFault::NoReport { awaited },
            io::ErrorKind::InvalidData => RequestFault::OddReport { awaited },
            _ => RequestFault::HookEnded,
        }
    }
}

impl Fault for RequestFault {
    fn class(&self) -> Class {
        match self {
            RequestFault::Id | RequestFault::NoProcess | RequestFault::NoOwner => Class::Data,
            RequestFault::Hold { .. } => Class::Kernel,
            RequestFault::HookEnded | RequestFault::NoReport { .. } | RequestFault::OddReport { .. } => {
                Class::Unavailable
            }
        }
    }

    fn is_for_users(&self) -> bool {
        !matches!(self, RequestFault::Hold { .. })
    }
}
