//! Why a store cannot be used.

use super::filesystem::STORE;
use crate::break_glass::keyring::KeyringError;
use crate::errno::SyscallError;
use crate::fault::{Class, Fault};

/// Why a store cannot be opened, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another emergency is open.
    #[error("refusing to open a second emergency: one is open")]
    IsOpen,
    /// The emergency ended while it was used.
    #[error("the emergency is over")]
    Over,
    /// Another filesystem is mounted at the path.
    #[error("refusing to use {STORE}: it is not a tmpfs or ramfs for root only")]
    NotOurs,
    /// The store was modified.
    #[error("{STORE} is damaged")]
    Damaged,
    /// The kernel does not store the key.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

impl Fault for StoreError {
    fn class(&self) -> Class {
        match self {
            StoreError::IsOpen | StoreError::NotOurs => Class::NotPermitted,
            StoreError::Over => Class::Unavailable,
            StoreError::Damaged | StoreError::Keyring(_) | StoreError::Syscall(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = "`oci-secrets break-glass status` shows which; `oci-secrets break-glass close` ends it";
        matches!(self, StoreError::IsOpen).then(|| hint.to_owned())
    }
}
