//! The lock that a process holds while it changes the ledger, the channel or the store.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tokio::time::sleep;

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::settings::file::{self, FileError};

const LOCK: &str = "lock";

/// The timeout for the lock. Each holder writes a few lines, and waits less than this for a channel.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(5);

/// The directory of the settings' `[break-glass]`, locked.
///
/// The kernel releases the lock when the process ends, even if it is killed.
#[derive(Debug)]
pub struct Locked {
    directory: PathBuf,
    _lock: File,
}

impl Locked {
    /// Waits for the lock. A missing directory is created with mode 0700.
    ///
    /// # Errors
    /// If the directory is not trusted, or another process holds the lock for too long.
    pub(super) async fn take(directory: &Path) -> Result<Locked, LockError> {
        let cannot = |error: std::io::Error| LockError::Open { path: directory.into(), errno: error.into() };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(cannot)?;
        let path = directory.join(LOCK);
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(cannot)?;
        file::check(&path, file::Kind::Credential).map_err(|source| LockError::File { source })?;
        let begin = Instant::now();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked { directory: directory.into(), _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE => sleep(PAUSE).await,
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Busy { path: directory.into() }),
                Err(errno) => return Err(LockError::Open { path: directory.into(), errno: errno.into() }),
            }
        }
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The directory, or the lock in it, cannot be created or opened.
    #[error("cannot use {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Other users can write to it.
    #[error(transparent)]
    File { source: FileError },
    /// Another process holds it.
    #[error("cannot lock {}: another process holds the lock for too long", path.display())]
    Busy { path: PathBuf },
}

impl Fault for LockError {
    fn class(&self) -> Class {
        match self {
            LockError::File { source } => source.class(),
            LockError::Busy { .. } => Class::Unavailable,
            LockError::Open { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LockError::File { source } => source.hint(),
            _ => None,
        }
    }
}
