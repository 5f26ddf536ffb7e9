//! `/run/oci-secrets`: where what outlives a process is kept in memory, by root of the host for itself alone.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FsWord, Mode, OFlags, fstat, fstatfs, mkdirat, openat};
use rustix::io::Errno;

use crate::harden;

/// Its path.
pub const DIRECTORY: &str = "/run/oci-secrets";

/// The type of a tmpfs, as statfs(2) returns it.
pub const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// Creates it, unless it exists.
///
/// # Errors
/// If mkdirat(2) fails.
pub fn create() -> rustix::io::Result<()> {
    match mkdirat(CWD, DIRECTORY, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        created => created,
    }
}

/// Opens or creates it. It must be on a tmpfs and accessible to root only.
pub fn open() -> Option<OwnedFd> {
    if !harden::is_root_of_the_host() {
        return None;
    }
    create().ok()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, DIRECTORY, flags, Mode::empty()).ok()?;
    let metadata = fstat(&directory).ok()?;
    let is_private = metadata.st_uid == 0 && metadata.st_mode & 0o077 == 0;
    let is_tmpfs = fstatfs(&directory).ok()?.f_type == TMPFS_MAGIC;
    (is_private && is_tmpfs).then_some(directory)
}
