//! The site: a container's target, seen from inside of its mount namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, fstat};
use rustix::io::Errno;

use super::frozen::is_frozen;
use super::{TARGET, TargetError, target};
use crate::container::{Mount, Mounts, MountsError, Process, ProcessError, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// The source of a delivery's mount, as mountinfo shows it.
pub const SOURCE: &str = "oci-secrets";

/// The inside of a container's mount namespace, for the thread that is there.
pub(super) struct Inside<'a> {
    /// The host's.
    pub(super) procfs: Procfs,
    pub(super) container: &'a Process,
    rootfs: &'a Path,
    /// Device and inode of the root filesystem, as the host has it at this path.
    identity: (u64, u64),
}

/// A container's target, by descriptor, and the mounts around it.
pub(super) struct Site<'a> {
    pub(super) procfs: &'a Procfs,
    pub(super) target: OwnedFd,
    /// The target's path, seen from the mount namespace's root.
    pub(super) path: PathBuf,
    /// The mount on which the target lies, or which is mounted there.
    pub(super) mount: Mount,
    pub(super) mounts: Mounts,
}

impl<'a> Site<'a> {
    /// Finds the target, `None` if there is nothing of that name or a symlink that leads nowhere.
    pub(super) fn find(inside: &'a Inside<'_>) -> Result<Option<Site<'a>>, SiteError> {
        let (rootfs, mounts) = inside.open_rootfs()?;
        match target::open(rootfs.as_fd()) {
            Err(TargetError::Dangling { .. }) => Ok(None),
            target => Site::new(&inside.procfs, target?, mounts).map(Some),
        }
    }

    /// Finds the target after making what is missing of it.
    pub(super) fn make(inside: &'a Inside<'_>) -> Result<Site<'a>, SiteError> {
        let (rootfs, mounts) = inside.open_rootfs()?;
        let target = target::open_or_make(rootfs.as_fd(), inside.container)?;
        Site::new(&inside.procfs, target, mounts)
    }

    fn new(procfs: &'a Procfs, target: OwnedFd, mounts: Mounts) -> Result<Site<'a>, SiteError> {
        let path = procfs.path(&target)?;
        let mount = mounts.get(procfs.mount_id(&target)?).cloned().ok_or(SiteError::NoMount)?;
        Ok(Site { procfs, target, path, mount, mounts })
    }

    /// Whether something is mounted at the target.
    pub(super) fn is_occupied(&self) -> bool {
        self.mount.point == self.path
    }

    /// Whether a delivery is mounted at the target.
    pub(super) fn is_delivered(&self) -> Result<bool, SyscallError> {
        let is_ours = self.mount.fs_type == "tmpfs" && self.mount.source == SOURCE;
        Ok(self.is_occupied() && is_ours && is_frozen(&self.target)?)
    }
}

/// Does some work inside of the container's mount namespace.
///
/// The thread that does it ends with it, so that the caller stays in its own namespace and may have other threads.
pub(super) fn inside<T, E>(
    container: &Process,
    rootfs: &Path,
    work: impl FnOnce(&Inside<'_>) -> Result<T, E> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<SiteError> + Send,
{
    in_thread(|| work(&Inside::enter(container, rootfs)?))
}

/// Does some work inside of the mount namespace of a container that runs: its root filesystem is `/` there.
pub(super) fn inside_running<T, E>(
    container: &Process,
    work: impl FnOnce(&Procfs) -> Result<T, E> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<SiteError> + Send,
{
    let enter = || {
        let procfs = Procfs::open()?;
        enter_namespace(container)?;
        Ok::<_, SiteError>(procfs)
    };
    in_thread(|| work(&enter()?))
}

fn in_thread<T, E>(work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<SiteError> + Send,
{
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("inside".to_owned());
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|source| SiteError::Thread { source })?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Moves this thread, and only it, into the container's mount namespace.
fn enter_namespace(container: &Process) -> Result<(), SyscallError> {
    // A thread that shares its root and working directory with others may not enter a mount namespace.
    unshare(CloneFlags::CLONE_FS).map_err(failed("unshare(CLONE_FS)"))?;
    setns(container.mount_namespace(), CloneFlags::CLONE_NEWNS).map_err(failed("setns(CLONE_NEWNS)"))
}

impl<'a> Inside<'a> {
    /// Moves this thread, and only it, into the container's mount namespace. It keeps the host's `/proc`.
    fn enter(container: &'a Process, rootfs: &'a Path) -> Result<Inside<'a>, SiteError> {
        let procfs = Procfs::open()?;
        let identity = identity(&open_rootfs(rootfs)?)?;
        enter_namespace(container)?;
        // A stricter umask of the engine's would keep the container's users out of directories that are made here.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        Ok(Inside { procfs, container, rootfs, identity })
    }

    /// Opens a root filesystem that is mounted: every runtime mounts it, if need be onto itself, before its hooks run.
    ///
    /// Otherwise the runtime has already made it `/`, as youki did before 0.6, or keeps its container elsewhere, in a virtual machine;
    /// the files would be delivered to a directory that the container does not see.
    ///
    /// If it is not the directory that the host has at this path, this is another container: the process has ended, and its pid was
    /// reused before the hook opened it.
    fn open_rootfs(&self) -> Result<(OwnedFd, Mounts), SiteError> {
        let rootfs = open_rootfs(self.rootfs)?;
        let mounts = self.container.mounts()?;
        let path = self.procfs.path(&rootfs)?;
        match mounts.get(self.procfs.mount_id(&rootfs)?) {
            Some(mount) if mount.point == path => {}
            _ => return Err(SiteError::NotMounted { rootfs: path }),
        }
        match identity(&rootfs)? == self.identity {
            true => Ok((rootfs, mounts)),
            false => Err(SiteError::OtherRootfs { rootfs: path }),
        }
    }

    /// Looks root filesystem and target up again, from the host's path on.
    pub(super) fn reopen(&self) -> Result<(OwnedFd, OwnedFd), TargetError> {
        let rootfs = target::open_rootfs(self.rootfs)?;
        let target = target::open(rootfs.as_fd())?;
        Ok((rootfs, target))
    }
}

/// Opens what is at a root filesystem's path, if there is anything.
fn open_rootfs(rootfs: &Path) -> Result<OwnedFd, SiteError> {
    match target::open_rootfs(rootfs) {
        Err(TargetError::Syscall(error)) if [Errno::NOENT, Errno::NOTDIR].map(Into::into).contains(&error.errno) => {
            Err(SiteError::NotMounted { rootfs: rootfs.to_owned() })
        }
        opened => Ok(opened?),
    }
}

fn identity(directory: &OwnedFd) -> Result<(u64, u64), SyscallError> {
    let stat = fstat(directory).map_err(failed("fstat(rootfs)"))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Why a container has no site for a delivery.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SiteError {
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread { source: io::Error },
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
    NotMounted { rootfs: PathBuf },
    /// What the container's mount namespace has at the root filesystem's path is something else than what the host has there.
    #[error(
        "refusing to deliver to {}: the process in the state has another root filesystem there",
        Excerpt(&.rootfs.to_string_lossy())
    )]
    OtherRootfs { rootfs: PathBuf },
    /// The target's mount went away while it was looked at.
    #[error("cannot find the mount of the container's {TARGET}")]
    NoMount,
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
    /// A list of mounts is not in the documented format.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

impl Fault for SiteError {
    fn class(&self) -> Class {
        match self {
            SiteError::Process(error) => error.class(),
            SiteError::Target(error) => error.class(),
            SiteError::NotMounted { .. } | SiteError::OtherRootfs { .. } => Class::NotPermitted,
            SiteError::Thread { .. }
            | SiteError::NoMount
            | SiteError::Syscall(_)
            | SiteError::Procfs(_)
            | SiteError::Mounts(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SiteError::Process(error) => error.hint(),
            SiteError::Target(error) => error.hint(),
            SiteError::NotMounted { .. } => Some(
                "the hook is for runtimes that share the host's kernel and call it before the container enters its root filesystem: runc, crun, youki from 0.6"
                    .into(),
            ),
            SiteError::Syscall(error) => error.hint(),
            _ => None,
        }
    }
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

    #[test]
    fn refuses_a_process_with_another_root_filesystem() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &std::path::Path| std::fs::create_dir(rootfs.join("other")).unwrap();
        let container = Container::start(image, "mount --bind other .");
        let error = attach(&container).unwrap_err();
        assert!(error.to_string().ends_with("the process in the state has another root filesystem there"), "{error:?}");
        assert!(!container.rootfs().join("other/run").exists());
    }
}
