//! `/run/oci-secrets`: where what outlives a process is kept in memory, by root of the host for itself alone. Another user has a directory
//! of the same name below `/run/user`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FsWord, Mode, OFlags, fstat, fstatfs, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::harden;

/// Its path.
pub const DIRECTORY: &str = "/run/oci-secrets";
/// The name of that of a user without root.
const NAME: &str = "oci-secrets";

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
    open_private(CWD, DIRECTORY)
}

/// The same, but for a user without root the one below `/run/user`. No variable names it: the hook has no environment.
pub fn open_own() -> Option<OwnedFd> {
    if harden::is_root_of_the_host() {
        return open();
    }
    let parent = open_private(CWD, &format!("/run/user/{}", host_uid()?))?;
    match mkdirat(&parent, NAME, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_private(&parent, NAME),
        Err(_) => None,
    }
}

/// Opens a directory on a tmpfs that only the caller can access.
fn open_private(parent: impl AsFd, path: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, path, flags, Mode::empty()).ok()?;
    let metadata = fstat(&directory).ok()?;
    let is_private = metadata.st_uid == geteuid().as_raw() && metadata.st_mode & 0o077 == 0;
    let is_tmpfs = fstatfs(&directory).ok()?.f_type == TMPFS_MAGIC;
    (is_private && is_tmpfs).then_some(directory)
}

/// The caller's id outside of its user namespace, in which rootless podman starts hooks.
fn host_uid() -> Option<u32> {
    mapped(&std::fs::read_to_string("/proc/self/uid_map").ok()?, geteuid().as_raw())
}

/// The id outside of a user namespace, by its map.
fn mapped(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_user_outside_of_a_namespace() {
        let podman = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(mapped(podman, 0), Some(1000));
        assert_eq!(mapped(podman, 33), Some(100_032));
        assert_eq!(mapped(podman, 70_000), None);
        assert_eq!(mapped("         0          0 4294967295\n", 1000), Some(1000));
        assert_eq!(mapped("", 0), None);
    }
}
