//! Why the broker does not start, or does not load its settings again.

use std::io;
use std::path::PathBuf;

use super::client::BrokerError;
use crate::errno::{Errno, SyscallError};
use crate::fault::{Class, Fault};
use crate::settings::SettingsError;
use crate::source::SourceError;

/// The name of the program in messages.
pub const PROGRAM: &str = "oci-secrets-broker";

/// Why the broker does not start, or does not load its settings again.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ProgramError {
    /// An unknown argument.
    #[error("unknown argument {found:.120?}")]
    Argument { found: String },
    /// An option at the end of the command line.
    #[error("{option} needs a path")]
    NoValue { option: &'static str },
    /// Standard output.
    #[error("cannot write the output")]
    Output {
        #[source]
        errno: Errno,
    },
    /// The inherited environment cannot be cleared.
    #[error("refusing to run with an inherited environment")]
    Environment { source: SyscallError },
    /// Without root, no tmpfs can be made for others.
    #[error("refusing to run without being root of this host")]
    NotRoot,
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// They name no source, or a file that cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The address of the metrics cannot be used.
    #[error("cannot serve metrics on {address}")]
    Metrics {
        address: String,
        #[source]
        errno: Errno,
    },
    /// The descriptor that systemd passed is not a listening socket.
    #[error("cannot use the socket that systemd passed: {reason}")]
    Passed { reason: io::Error },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals {
        #[source]
        errno: Errno,
    },
    /// A probe got no answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A probe found that the runtime does not ask it.
    #[error("the broker is not registered with the runtime at {}", socket.display())]
    NotRegistered { socket: PathBuf },
    /// The asynchronous runtime.
    #[error("cannot start the asynchronous runtime")]
    Runtime {
        #[source]
        errno: Errno,
    },
}

impl Fault for ProgramError {
    fn class(&self) -> Class {
        match self {
            ProgramError::Argument { .. } | ProgramError::NoValue { .. } => Class::CommandLine,
            ProgramError::NotRoot => Class::NotPermitted,
            ProgramError::Settings(error) => error.class(),
            ProgramError::Source(error) => error.class(),
            ProgramError::Broker(error) => error.class(),
            ProgramError::NotRegistered { .. } => Class::Unavailable,
            ProgramError::Output { .. }
            | ProgramError::Environment { .. }
            | ProgramError::Listen { .. }
            | ProgramError::Metrics { .. }
            | ProgramError::Passed { .. }
            | ProgramError::Signals { .. }
            | ProgramError::Runtime { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ProgramError::Argument { .. } | ProgramError::NoValue { .. } => {
                Some("`oci-secrets-broker --help` shows the arguments".into())
            }
            ProgramError::Settings(error) => error.hint(),
            ProgramError::Source(error) => error.hint(),
            ProgramError::Broker(error) => error.hint(),
            _ => None,
        }
    }
}
