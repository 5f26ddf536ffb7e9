//! `/run/oci-secrets`: where what outlives a process is kept in memory, by root of the host for itself alone. Another user has a directory
//! of the same name below `/run/user`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FsWord, Mode, OFlags, fchmod, fstat, fstatfs, mkdirat, openat};
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

/// Creates it, or makes it private if it is for everyone, as the kubelet makes directories.
///
/// # Errors
/// If it cannot be created or changed.
pub fn make_private() -> rustix::io::Result<()> {
    create_private(DIRECTORY)
}

fn create_private(path: &str) -> rustix::io::Result<()> {
    match mkdirat(CWD, path, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        created => return created,
    }
    let directory = open_directory(CWD, path)?;
    if fstat(&directory)?.st_mode & 0o077 != 0 { fchmod(&directory, Mode::RWXU) } else { Ok(()) }
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

fn open_directory(parent: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    openat(parent, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory on a tmpfs that only the caller can access.
fn open_private(parent: impl AsFd, path: &str) -> Option<OwnedFd> {
    let directory = open_directory(parent, path).ok()?;
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_that_the_kubelet_has_made_becomes_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("oci-secrets");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        create_private(path.to_str().unwrap()).unwrap();
        assert_eq!(mode(), 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        create_private(path.to_str().unwrap()).unwrap();
        assert_eq!(mode(), 0o700);
        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(create_private(link.to_str().unwrap()).is_err());
    }

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
