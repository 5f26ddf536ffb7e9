//! Why a running container cannot be updated.

use std::path::PathBuf;

use crate::container::{ProcessError, ProcfsError};
use crate::deliver::SwapError;
use crate::errno::{Errno, SyscallError};
use crate::fault::{Class, Fault};

/// Why a container cannot be updated from now on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum LiveError {
    /// The state cannot be written.
    #[error("cannot write the state of the container to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// A process has covered one delivery after another.
    #[error("refusing to deliver to the container: its process has {count} deliveries already")]
    TooMany { count: usize },
    /// An update that was interrupted cannot be ended.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// The container's process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
}

impl Fault for LiveError {
    fn class(&self) -> Class {
        match self {
            LiveError::Swap(error) => error.class(),
            LiveError::Process(error) => error.class(),
            LiveError::TooMany { .. } => Class::NotPermitted,
            LiveError::Write { .. } | LiveError::Syscall(_) | LiveError::Procfs(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LiveError::TooMany { .. } => Some("call the hook once for each start of the container".into()),
            LiveError::Swap(error) => error.hint(),
            LiveError::Process(error) => error.hint(),
            LiveError::Syscall(error) => error.hint(),
            _ => None,
        }
    }
}
