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
            Err(nix::errno::Errno::EPERM) => enter_user_namespace()
                .and_then(|()| detach_mounts())
                .map_err(|source| PrivateError::Restricted { source }),
            other => Ok(other.map_err(failed("unshare(CLONE_NEWNS)")).and_then(|()| detach_mounts())?),
        }?;
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

/// Later mounts of the host propagate into this namespace, but not the other way round.
fn detach_mounts() -> Result<(), SyscallError> {
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", downstream).map_err(failed(r#"mount("/", MS_SLAVE | MS_REC)"#))
}

fn enter_user_namespace() -> Result<(), SyscallError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    unshare(both).map_err(failed("unshare(CLONE_NEWUSER | CLONE_NEWNS)"))?;
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
    written
}

/// Where the kernel shows its settings.
const SYSCTLS: &str = "/proc/sys";

/// The settings of the kernel that keep users without root from user namespaces, each with its value and what lifts it. AppArmor permits
/// `unshare` and withholds the rights in the new namespace.
const RESTRICTIONS: [(&str, &str, &str); 3] = [
    ("user/max_user_namespaces", "0", "`sysctl user.max_user_namespaces=15000` permits user namespaces"),
    ("kernel/unprivileged_userns_clone", "0", "`sysctl kernel.unprivileged_userns_clone=1` permits user namespaces"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "an AppArmor profile for oci-secrets with `userns,` permits user namespaces",
    ),
];

/// What lifts the restriction that these settings of the kernel show.
fn remedy(sysctls: &Path) -> &'static str {
    let is_set = |(name, restricting, _): &(&str, &str, &str)| {
        std::fs::read_to_string(sysctls.join(name)).is_ok_and(|value| value.trim() == *restricting)
    };
    let found = RESTRICTIONS.into_iter().find(is_set);
    found.map_or("user namespaces are not permitted here, perhaps by a seccomp filter", |(_, _, remedy)| remedy)
}

/// Why a process did not get a delivery of its own.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum PrivateError {
    /// Without root, there is no mount namespace, or no right in it.
    #[error("cannot make a mount namespace without root")]
    Restricted { source: SyscallError },
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
            PrivateError::Restricted { .. } | PrivateError::NotInPlace { .. } | PrivateError::Syscall(_) => {
                Class::Kernel
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            PrivateError::Restricted { .. } => {
                let remedy = remedy(Path::new(SYSCTLS));
                return Some(format!("{remedy}; without `--files` the command gets variables"));
            }
            PrivateError::Directory { .. } => "make it first: an empty directory will do",
            PrivateError::Syscall(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_setting_that_restricts_user_namespaces() {
        let directory = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
            remedy(directory.path())
        };
        assert!(remedy(directory.path()).contains("seccomp"));
        assert!(set("kernel/apparmor_restrict_unprivileged_userns", "0").contains("seccomp"));
        assert!(set("kernel/apparmor_restrict_unprivileged_userns", "1").contains("AppArmor"));
        assert!(set("kernel/unprivileged_userns_clone", "1").contains("AppArmor"));
        assert!(set("kernel/unprivileged_userns_clone", "0").contains("kernel.unprivileged_userns_clone=1"));
        assert!(set("user/max_user_namespaces", "63231").contains("kernel.unprivileged_userns_clone=1"));
        assert!(set("user/max_user_namespaces", "0").contains("user.max_user_namespaces=15000"));
    }
}
