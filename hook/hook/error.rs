//! Why the hook fails where no other module says so.

use crate::errno::{Errno, SyscallError};
use crate::fault::{Class, Fault};

/// Why the hook fails before it reads a state, or without an owner for the files.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    /// An unknown argument.
    #[error("unknown argument {found:.120?}")]
    Argument { found: String },
    /// `--settings` at the end of the command line.
    #[error("--settings needs a path")]
    NoValue,
    /// The inherited environment cannot be removed.
    #[error("refusing to run with an inherited environment")]
    Environment { source: SyscallError },
    /// Neither the spec nor an annotation names an owner.
    #[error("no owner for the secrets: the spec has no process.user")]
    NoOwner,
    /// Standard output.
    #[error("cannot write the output")]
    Output {
        #[source]
        errno: Errno,
    },
    /// The asynchronous runtime.
    #[error("cannot prepare for the network")]
    Runtime {
        #[source]
        errno: Errno,
    },
}

impl Fault for HookError {
    fn class(&self) -> Class {
        match self {
            HookError::Argument { .. } | HookError::NoValue => Class::CommandLine,
            HookError::NoOwner => Class::Data,
            HookError::Environment { .. } | HookError::Output { .. } | HookError::Runtime { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            HookError::Argument { .. } | HookError::NoValue => "`oci-secrets-hook --help` shows the arguments",
            HookError::Environment { .. } => "give the hook `env` with PATH alone, as config/hooks.d has it",
            HookError::NoOwner => {
                "set process.user in the spec, or request an owner with the annotation run.secrets.owner"
            }
            HookError::Output { .. } | HookError::Runtime { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
