//! The site: a container's root filesystem and target, seen from inside of its mount namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::Mode;
use rustix::io::Errno;

use super::{TARGET, TargetError, target};
use crate::container::{Mount, Mounts, MountsError, Process, ProcessError, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::excerpt::Excerpt;

/// What lists of mounts show as a delivery's source.
pub(super) const SOURCE: &str = "oci-secrets";

/// A container's root filesystem and target, by descriptor, and the mounts around them.
pub(super) struct Site<'a> {
    pub(super) procfs: &'a Procfs,
    pub(super) rootfs: OwnedFd,
    pub(super) target: OwnedFd,
    /// The target's path, seen from the mount namespace's root.
    pub(super) path: PathBuf,
    /// The mount on which the target lies, or which is mounted there.
    pub(super) mount: Mount,
    pub(super) mounts: Mounts,
}

impl<'a> Site<'a> {
    /// Finds the target, `None` if there is nothing of that name or a symlink that leads nowhere.
    pub(super) fn find(procfs: &'a Procfs, container: &Process, rootfs: &Path) -> Result<Option<Site<'a>>, SiteError> {
        let (rootfs, mounts) = open_rootfs(procfs, container, rootfs)?;
        match target::open(rootfs.as_fd()) {
            Err(TargetError::Dangling { .. }) => Ok(None),
            target => Site::new(procfs, rootfs, target?, mounts).map(Some),
        }
    }

    /// Finds the target after making what is missing of it.
    pub(super) fn make(procfs: &'a Procfs, container: &Process, rootfs: &Path) -> Result<Site<'a>, SiteError> {
        let (rootfs, mounts) = open_rootfs(procfs, container, rootfs)?;
        let target = target::open_or_make(rootfs.as_fd(), container)?;
        Site::new(procfs, rootfs, target, mounts)
    }

    fn new(procfs: &'a Procfs, rootfs: OwnedFd, target: OwnedFd, mounts: Mounts) -> Result<Site<'a>, SiteError> {
        let path = procfs.path(&target)?;
        let mount = mounts.get(procfs.mount_id(&target)?).cloned().ok_or(SiteError::NoMount)?;
        Ok(Site { procfs, rootfs, target, path, mount, mounts })
    }

    /// Whether something is mounted at the target that a container can lose: all but a delivery by another stage of this hook.
    pub(super) fn is_occupied(&self) -> bool {
        let is_delivery = self.mount.fs_type == "tmpfs" && self.mount.source == SOURCE;
        self.mount.point == self.path && !is_delivery
    }
}

/// Does some work inside of the container's mount namespace.
///
/// The thread that does it ends with it, so that the caller stays in its own namespace and may have other threads.
pub(super) fn inside<T, E>(container: &Process, work: impl FnOnce(&Procfs) -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<SiteError> + Send,
{
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("inside".to_owned());
        let thread = thread.spawn_scoped(scope, || work(&enter(container)?));
        let thread = thread.map_err(|source| SiteError::Thread { source })?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Moves this thread, and only it, into the container's mount namespace. It keeps the host's `/proc`.
fn enter(container: &Process) -> Result<Procfs, SiteError> {
    let procfs = Procfs::open()?;
    // A thread that shares its root and working directory with others may not enter a mount namespace.
    unshare(CloneFlags::CLONE_FS).map_err(failed("unshare(CLONE_FS)"))?;
    // A stricter umask of the engine's would keep the container's users out of directories that are made here.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    setns(container.mount_namespace(), CloneFlags::CLONE_NEWNS).map_err(failed("setns(CLONE_NEWNS)"))?;
    Ok(procfs)
}

/// Opens a root filesystem that is mounted: every runtime mounts it, if need be onto itself, before its hooks run.
///
/// Otherwise the runtime has already made it `/`, as youki did before 0.6, or keeps its container elsewhere, in a virtual machine;
/// the files would be delivered to a directory that nobody looks into, of the host's or of the image's, if there is one at all.
fn open_rootfs(procfs: &Procfs, container: &Process, rootfs: &Path) -> Result<(OwnedFd, Mounts), SiteError> {
    let rootfs = match target::open_rootfs(rootfs) {
        Err(TargetError::Syscall(error)) if [Errno::NOENT, Errno::NOTDIR].map(Into::into).contains(&error.errno) => {
            return Err(SiteError::NotMounted { rootfs: rootfs.to_owned() });
        }
        opened => opened?,
    };
    let mounts = container.mounts()?;
    let path = procfs.path(&rootfs)?;
    match mounts.get(procfs.mount_id(&rootfs)?) {
        Some(mount) if mount.point == path => Ok((rootfs, mounts)),
        _ => Err(SiteError::NotMounted { rootfs: path }),
    }
}

/// Why a container has no site for a delivery.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// There was no thread to be had.
    #[error("cannot start a thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The container's process has ended, or its mounts cannot be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The container has no usable `/run/secrets`.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The root filesystem is not what the container will run on.
    #[error(
        "refusing to deliver to {}: it is not a mount point in the container's mount namespace",
        Excerpt(&.rootfs.to_string_lossy())
    )]
    NotMounted {
        /// The root filesystem on the host.
        rootfs: PathBuf,
    },
    /// The target's mount went away while it was looked at.
    #[error("cannot find the mount of the container's {TARGET}")]
    NoMount,
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
    /// A list of mounts is not what the manual describes.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

#[cfg(test)]
mod tests {
    use crate::deliver::testing::{Container, NOTHING, attach, is_root};

    #[test]
    fn refuses_a_root_filesystem_that_is_not_mounted() {
        if !is_root() {
            return;
        }
        let container = Container::unshare(&[], NOTHING, "true");
        let error = attach(&container).unwrap_err();
        assert!(error.to_string().contains("is not a mount point"), "{error:?}");
        assert!(!container.rootfs().join("run").exists());
    }
}
