//! One at a time: whoever changes the ledger, the channel or the store holds the lock.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::settings::file::{self, FileError};

const LOCK: &str = "lock";

/// How long others may take: each writes a few lines, and waits for a channel at most this long itself.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(5);

/// The directory of the settings' `[break-glass]`, while nobody else changes anything in it.
///
/// The kernel gives the lock back when the process ends, however it does.
#[derive(Debug)]
pub struct Locked {
    directory: PathBuf,
    _lock: File,
}

impl Locked {
    /// Waits for the lock. Makes the directory, for us alone, where there is none.
    ///
    /// # Errors
    /// If the directory is not trusted, or others do not end in time.
    pub fn take(directory: &Path) -> Result<Locked, LockError> {
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
                Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Busy { path: directory.into() }),
                Err(errno) => return Err(LockError::Open { path: directory.into(), errno: errno.into() }),
            }
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum LockError {
    /// The directory cannot be made, or nothing in it.
    #[error("cannot use {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Others could have put something into it.
    #[error(transparent)]
    File { source: FileError },
    /// Somebody else has it.
    #[error("another process works on {} for too long", path.display())]
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
