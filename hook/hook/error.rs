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
    /// Only a daemon can update running containers.
    #[error("refusing to deliver files that follow changes: run.secrets.update needs the broker")]
    NoBroker,
    /// Only a daemon can remove files later.
    #[error("refusing to deliver files that are removed later: run.secrets.withdraw needs the broker")]
    NoWithdrawal,
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
            HookError::NoBroker | HookError::NoWithdrawal => Class::Settings,
            HookError::Environment { .. } | HookError::Output { .. } | HookError::Runtime { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            HookError::Argument { .. } | HookError::NoValue => "`oci-secrets-hook --help` shows the arguments",
            HookError::Environment { .. } => "give the hook `env` with PATH alone, as config/hooks.d has it",
            HookError::NoBroker => {
                "`socket` under [broker] in the settings makes the hook ask the broker; without the annotation, the container keeps the files of its start"
            }
            HookError::NoWithdrawal => {
                "`socket` under [broker] in the settings makes the hook ask the broker; without the annotation, the container keeps its files"
            }
            HookError::NoOwner => {
                "set process.user in the spec, or request an owner with the annotation run.secrets.owner"
            }
            HookError::Output { .. } | HookError::Runtime { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
