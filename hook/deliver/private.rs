//! A delivery to this very process: it gets a mount namespace of its own, and a frozen tmpfs at a directory in it.

use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::process::{DumpableBehavior, getegid, geteuid, set_dumpable_behavior};

use super::Frozen;
use super::frozen::is_frozen;
use crate::errno::{Errno, SyscallError, failed};
use crate::fault::{Class, Fault};
use crate::harden::hide_memory;

/// This process, in a mount namespace that it shares only with what it becomes or starts. The host does not see what is mounted
/// there, and it goes away with the last of them.
#[derive(Debug)]
pub struct Private(());

impl Private {
    /// Enters a new mount namespace. Without CAP_SYS_ADMIN it also enters a new user namespace, in which the process keeps its
    /// uid and gid, and no other id is mapped: programs that change the user, such as `sudo`, do not work there.
    ///
    /// # Errors
    /// When the kernel refuses, or this process has more than one thread.
    pub fn enter() -> Result<Private, PrivateError> {
        match unshare(CloneFlags::CLONE_NEWNS) {
            Err(nix::errno::Errno::EPERM) => enter_user_namespace()?,
            other => other.map_err(failed("unshare(CLONE_NEWNS)"))?,
        }
        // Later mounts of the host propagate into this namespace, but not the other way round.
        let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", downstream).map_err(failed(r#"mount("/", MS_SLAVE | MS_REC)"#))?;
        Ok(Private(()))
    }
}

impl Frozen {
    /// Mounts the tmpfs at a directory, for this process and what it becomes or starts.
    ///
    /// # Errors
    /// When there is no such directory, or the kernel refuses. The files are destroyed.
    pub fn attach_at(self, directory: &Path, _: &Private) -> Result<(), PrivateError> {
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, directory, flags, Mode::empty())
                .map_err(|errno| PrivateError::Directory { path: directory.into(), errno: errno.into() })
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.mount, "", open()?, "", flags).map_err(failed("move_mount"))?;
        if is_frozen(open()?)? { Ok(()) } else { Err(PrivateError::NotInPlace { path: directory.into() }) }
    }
}

fn enter_user_namespace() -> Result<(), PrivateError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    unshare(both).map_err(|errno| PrivateError::NoUserNamespace { errno: errno.into() })?;
    // The files in /proc of a process that is not dumpable belong to root.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let written = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ]
    .into_iter()
    .try_for_each(|(file, text)| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(failed(format!(r#"write("/proc/self/{file}")"#)))
    });
    hide_memory();
    Ok(written?)
}

/// Why a process did not get a delivery of its own.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum PrivateError {
    /// Without root, the kernel gives no mount namespace.
    #[error("cannot make a mount namespace without root: unshare(CLONE_NEWUSER | CLONE_NEWNS)")]
    NoUserNamespace {
        #[source]
        errno: Errno,
    },
    /// There is no such directory.
    #[error("cannot mount files at {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Something else is at the directory after attaching.
    #[error("refusing to go on: after attaching, {} is not our tmpfs", path.display())]
    NotInPlace { path: PathBuf },
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

impl Fault for PrivateError {
    fn class(&self) -> Class {
        match self {
            PrivateError::Directory { .. } => Class::CommandLine,
            PrivateError::NoUserNamespace { .. } | PrivateError::NotInPlace { .. } | PrivateError::Syscall(_) => {
                Class::Kernel
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            PrivateError::NoUserNamespace { .. } => {
                "user namespaces are turned off here for users without root; without `--files` the command gets variables"
            }
            PrivateError::Directory { .. } => "make it first: an empty directory will do",
            PrivateError::Syscall(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
