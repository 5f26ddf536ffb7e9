//! The target: the directory `/run/secrets` of the container, found and if need be made, by descriptor only.
//!
//! The image decides what `/run` and `/run/secrets` are, and may be hostile. The kernel resolves every path as if the root
//! filesystem were `/` (`RESOLVE_IN_ROOT`), so that no symlink leads out of it; what it finds is held by descriptor and not
//! looked up again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

use crate::container::{Owner, Process, ProcessError};
use crate::errno::{SyscallError, failed};
use crate::excerpt::Excerpt;

/// The directory in which a container finds its files.
pub const TARGET: &str = "/run/secrets";

/// How often a path is resolved anew when something was renamed meanwhile (`EAGAIN`).
const ATTEMPTS: usize = 64;

/// Opens the root filesystem: a path of the host's, in the mount namespace of this thread.
pub(super) fn open_rootfs(path: &Path) -> Result<OwnedFd, TargetError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let call = || format!("open({})", Excerpt(&path.to_string_lossy()));
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(failed(call()))?)
}

/// Opens the target below the root filesystem.
pub(super) fn open(rootfs: BorrowedFd<'_>) -> Result<OwnedFd, TargetError> {
    resolve(rootfs, TARGET).map_err(|errno| not_resolved(TARGET, errno))
}

/// Opens the target below the root filesystem, after making what is missing of it.
///
/// A directory is made as the container's root would make it, with mode 0755 less this thread's umask. It stays when the
/// container ends.
pub(super) fn open_or_make(rootfs: BorrowedFd<'_>, container: &Process) -> Result<OwnedFd, TargetError> {
    let step = |path: &'static str, parent: BorrowedFd<'_>, name: &str| {
        let resolved = match resolve(rootfs, path) {
            Err(Errno::NOENT) => {
                make(parent, name, container.foreign_root()?).map_err(|errno| not_made(path, errno))?;
                resolve(rootfs, path)
            }
            other => other,
        };
        resolved.map_err(|errno| not_resolved(path, errno))
    };
    let run = step("/run", rootfs, "run")?;
    step(TARGET, run.as_fd(), "secrets")
}

fn resolve(rootfs: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let attempt = || openat2(rootfs, path, flags, Mode::empty(), inside);
    let settled = |opened: &Result<_, Errno>| !matches!(opened, Err(Errno::AGAIN | Errno::INTR));
    std::iter::repeat_with(attempt).take(ATTEMPTS).find(settled).unwrap_or(Err(Errno::AGAIN))
}

/// Makes a directory, as another user if one is given; it is no error when something of that name exists.
fn make(parent: BorrowedFd<'_>, name: &str, user: Option<Owner>) -> Result<(), Errno> {
    let mkdir = || mkdirat(parent, name, Mode::from(0o755));
    let made = match user {
        None => mkdir(),
        // Of this thread alone. A filesystem of the container's user namespace has no room for users it does not know.
        Some(user) => {
            let group = setfsgid(Gid::from_raw(user.gid));
            let previous = setfsuid(Uid::from_raw(user.uid));
            let made = mkdir();
            setfsuid(previous);
            setfsgid(group);
            made
        }
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn not_resolved(path: &'static str, errno: Errno) -> TargetError {
    match errno {
        Errno::NOSYS => TargetError::NoOpenat2,
        Errno::NOENT => TargetError::Dangling { path },
        Errno::NOTDIR => TargetError::NotADirectory { path },
        Errno::LOOP | Errno::XDEV => TargetError::Loop { path },
        other => failed(format!(r#"openat2("{path}", RESOLVE_IN_ROOT)"#))(other).into(),
    }
}

fn not_made(path: &'static str, errno: Errno) -> TargetError {
    match errno {
        Errno::ROFS => TargetError::ReadOnly { path },
        other => failed(format!(r#"mkdirat("{path}")"#))(other).into(),
    }
}

/// Why the container has no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The kernel cannot resolve a path inside a root.
    #[error("cannot resolve {TARGET}: openat2 is not implemented; Linux 5.6 is the oldest that is supported")]
    NoOpenat2,
    /// A symlink of the image leads to nothing.
    #[error("refusing to use the container's {path}: it is a symlink that leads nowhere")]
    Dangling {
        /// The path in the container.
        path: &'static str,
    },
    /// The image has a file or device there, or on the way.
    #[error("refusing to use the container's {path}: it is not a directory")]
    NotADirectory {
        /// The path in the container.
        path: &'static str,
    },
    /// The image's symlinks go in circles, or lead through `/proc` to some process's files.
    #[error("refusing to use the container's {path}: its symlinks lead in a circle or through /proc")]
    Loop {
        /// The path in the container.
        path: &'static str,
    },
    /// The directory is missing on a filesystem that cannot get it.
    #[error("cannot make the container's {path}: it is missing, and the filesystem is read-only")]
    ReadOnly {
        /// The path in the container.
        path: &'static str,
    },
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// The container's root has no id here, and a directory must be made.
    #[error(transparent)]
    Process(#[from] ProcessError),
}
