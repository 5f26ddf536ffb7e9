//! Why a delivery cannot be attached.

use std::path::PathBuf;

use super::carry::CarryError;
use super::site::SiteError;
use super::{TARGET, TargetError};
use crate::container::{MountsError, ProcessError, ProcfsError};
use crate::errno::SyscallError;
use crate::fault::{Class, Fault};

/// Why a delivery could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The container's process has ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The container has no site for a delivery, or a mount there cannot be carried over.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// The target is gone after attaching.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A mount at the target would also appear on the host.
    #[error("refusing to deliver to the container's {TARGET}: it shares its mounts with the host")]
    Shared,
    /// The runtime would hide or weaken the files after the hooks have run.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// Something else is at the target after attaching.
    #[error("refusing to start the container: after attaching, {TARGET} is not our tmpfs")]
    NotInPlace,
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
    /// `/proc/self/mountinfo` is not in the documented format.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

impl Fault for AttachError {
    fn class(&self) -> Class {
        match self {
            AttachError::Process(error) => error.class(),
            AttachError::Carry(error) => error.class(),
            AttachError::Target(error) => error.class(),
            AttachError::Preflight(error) => error.class(),
            AttachError::Shared | AttachError::NotInPlace => Class::NotPermitted,
            AttachError::Syscall(_) | AttachError::Procfs(_) | AttachError::Mounts(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            AttachError::Process(error) => error.hint(),
            AttachError::Carry(error) => error.hint(),
            AttachError::Target(error) => error.hint(),
            AttachError::Preflight(error) => error.hint(),
            AttachError::Shared => Some("make the container's root filesystem a private mount".into()),
            AttachError::Syscall(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<SiteError> for AttachError {
    fn from(error: SiteError) -> AttachError {
        AttachError::Carry(error.into())
    }
}

/// Why a spec cannot have a delivery.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum PreflightError {
    /// The mount namespace is that of others, who would see the files, and keep them when the container has ended.
    #[error("refusing to deliver to {TARGET}: the spec joins a mount namespace of others")]
    JoinedMounts,
    /// A masked path over, at or below the target.
    #[error("refusing to deliver to {TARGET}: linux.maskedPaths has {}, which would hide the files", .path.display())]
    Masked { path: PathBuf },
    /// A read-only path over, at or below the target.
    #[error("refusing to deliver to {TARGET}: linux.readonlyPaths has {}, which would mount over the files", .path.display())]
    ReadOnlyPath { path: PathBuf },
    /// A read-only tmpfs exactly at the target.
    #[error("refusing to deliver to {TARGET}: the spec mounts a read-only tmpfs at {}", .destination.display())]
    ReadOnlyTmpfs { destination: PathBuf },
}

impl Fault for PreflightError {
    fn class(&self) -> Class {
        Class::NotPermitted
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            PreflightError::JoinedMounts => "give the spec a mount namespace of its own, without `path`",
            PreflightError::Masked { .. }
            | PreflightError::ReadOnlyPath { .. }
            | PreflightError::ReadOnlyTmpfs { .. } => {
                "leave /run/secrets out of the spec: the hook makes and protects it"
            }
        };
        Some(hint.to_owned())
    }
}
