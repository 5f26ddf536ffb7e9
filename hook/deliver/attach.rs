//! The last step: a frozen tmpfs gets its place in the container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, fstat};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::tmpfs::is_frozen;
use super::{Frozen, TARGET, TargetError, target};
use crate::container::{Mounts, MountsError, Process, ProcessError, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::excerpt::Excerpt;

impl Frozen {
    /// Mounts the tmpfs at `/run/secrets` of a container that is being created; its root filesystem is given as the host's path.
    ///
    /// From here on it lives and dies with the container's mount namespace. The work is done on a thread of its own, which ends
    /// with it, so that the caller stays in its own namespace and may have other threads.
    ///
    /// # Errors
    /// When the process has ended, when the image or a mount stands in the way, or when the kernel refuses. Nothing stays
    /// attached, and the files are destroyed; an empty directory `/run/secrets` may have been made.
    pub fn attach(self, container: &Process, rootfs: &Path) -> Result<(), AttachError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("attach".to_owned());
            let work = || self.attach_on_this_thread(container, rootfs);
            let thread = thread.spawn_scoped(scope, work).map_err(|source| AttachError::Thread { source })?;
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn attach_on_this_thread(&self, container: &Process, rootfs: &Path) -> Result<(), AttachError> {
        let procfs = Procfs::open()?;
        let host = Mounts::parse(&procfs.read("self/mountinfo")?)?;
        enter(container)?;
        let rootfs = target::open_rootfs(rootfs)?;
        let mounts = container.mounts()?;
        require_mount_point(&procfs, &mounts, rootfs.as_fd())?;
        let target = target::open_or_make(rootfs.as_fd(), container)?;
        require_free(&procfs, &mounts, &host, target.as_fd())?;
        if !container.is_alive() {
            return Err(ProcessError::Gone.into());
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.mount, "", &target, "", flags).map_err(failed(format!(r#"move_mount("{TARGET}")"#)))?;
        self.verify(&procfs, rootfs.as_fd()).or_else(|error| {
            self.detach()?;
            Err(error)
        })
    }

    /// Looks the target up again: what is found there must be this tmpfs, and still frozen.
    fn verify(&self, procfs: &Procfs, rootfs: BorrowedFd<'_>) -> Result<(), AttachError> {
        let found = target::open(rootfs)?;
        let device = |descriptor: BorrowedFd<'_>| fstat(descriptor).map(|stat| stat.st_dev).map_err(failed("fstat"));
        let same = procfs.mount_id(&found)? == procfs.mount_id(&self.mount)?
            && device(found.as_fd())? == device(self.mount.as_fd())?;
        if same && is_frozen(&found)? { Ok(()) } else { Err(AttachError::NotInPlace) }
    }

    /// Takes the tmpfs away again, by descriptor, wherever it has come to be.
    fn detach(&self) -> Result<(), SyscallError> {
        rustix::process::fchdir(&self.mount).map_err(failed("fchdir(tmpfs)"))?;
        unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed(r#"umount2(".", MNT_DETACH)"#))
    }
}

/// Moves this thread, and only it, into the container's mount namespace.
fn enter(container: &Process) -> Result<(), SyscallError> {
    // A thread that shares its root and working directory with others may not enter a mount namespace.
    unshare(CloneFlags::CLONE_FS).map_err(failed("unshare(CLONE_FS)"))?;
    // A stricter umask of the engine's would keep the container's users out of directories that are made here.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    setns(container.mount_namespace(), CloneFlags::CLONE_NEWNS).map_err(failed("setns(CLONE_NEWNS)"))
}

/// Refuses a root filesystem that is not mounted: every runtime mounts it, if need be onto itself, before its hooks run.
///
/// Otherwise the runtime has already made it `/`, or keeps its container elsewhere, in a virtual machine; the files would be
/// delivered to a directory of the host's that nobody looks into.
fn require_mount_point(procfs: &Procfs, mounts: &Mounts, rootfs: BorrowedFd<'_>) -> Result<(), AttachError> {
    let path = procfs.path(rootfs)?;
    let mount = mounts.get(procfs.mount_id(rootfs)?);
    match mount {
        Some(mount) if mount.point == path => Ok(()),
        _ => Err(AttachError::NotMounted { rootfs: path }),
    }
}

/// Refuses a target where attaching would hide a mount, or show the files to the host.
fn require_free(procfs: &Procfs, mounts: &Mounts, host: &Mounts, target: BorrowedFd<'_>) -> Result<(), AttachError> {
    let path = procfs.path(target)?;
    let mount = mounts.get(procfs.mount_id(target)?).ok_or(AttachError::NoMount)?;
    let is_whole_tmpfs = mount.fs_type == "tmpfs" && mount.root == Path::new("/");
    if mount.point == path && !is_whole_tmpfs {
        return Err(AttachError::Occupied { fs_type: mount.fs_type.clone() });
    }
    let mut children = mounts.iter().filter(|child| child.parent == mount.id && child.id != mount.id);
    if let Some(child) = children.find(|child| child.point.starts_with(&path)) {
        let below = child.point.strip_prefix(&path).unwrap_or(&child.point);
        return Err(AttachError::MountBelow { point: Path::new(TARGET).join(below) });
    }
    if mount.peer_group.is_some() && host.iter().any(|other| other.peer_group == mount.peer_group) {
        return Err(AttachError::Shared);
    }
    Ok(())
}

/// Why a delivery could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
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
    /// Something that is not an empty tmpfs of the container's own is mounted at the target.
    #[error("refusing to hide what is mounted at the container's {TARGET} ({fs_type})")]
    Occupied {
        /// The type of its filesystem.
        fs_type: String,
    },
    /// Something is mounted below the target.
    #[error("refusing to hide what is mounted at the container's {}", Excerpt(&.point.to_string_lossy()))]
    MountBelow {
        /// The path in the container.
        point: PathBuf,
    },
    /// What is mounted at the target would be mounted on the host, too.
    #[error("refusing to deliver to the container's {TARGET}: it shares its mounts with the host")]
    Shared,
    /// Something else is at the target after attaching.
    #[error("refusing to start the container: after attaching, {TARGET} is not our tmpfs")]
    NotInPlace,
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
    /// Our own list of mounts is not what the manual describes.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{Container, NOTHING, attach, frozen, is_root};
    use std::fs::{create_dir_all, read_to_string};
    use std::os::unix::fs::MetadataExt;

    fn tmpfs_mounts(container: &Container) -> usize {
        let mounts = container.process().mounts().unwrap();
        mounts.iter().filter(|mount| mount.point.starts_with(container.rootfs()) && mount.fs_type == "tmpfs").count()
    }

    #[test]
    fn gives_the_container_its_file_and_the_host_nothing() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        attach(&container).unwrap();

        let file = container.inside("/run/secrets/db");
        assert_eq!(read_to_string(&file).unwrap(), "hunter2");
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode()), (1000, 1001, 0o100_400));
        let directory = std::fs::File::open(container.inside("/run/secrets")).unwrap();
        assert_eq!(directory.metadata().unwrap().mode(), 0o40_555);
        assert!(is_frozen(&directory).unwrap());
        let write = std::fs::write(container.inside("/run/secrets/new"), "");
        assert_eq!(write.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);

        assert_eq!(container.rootfs().join("run").metadata().unwrap().mode(), 0o40_755);
        assert_eq!(container.rootfs().join("run/secrets").read_dir().unwrap().count(), 0);
    }

    #[test]
    fn refuses_to_hide_other_mounts() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &Path| create_dir_all(rootfs.join("run/secrets/kubernetes.io")).unwrap();
        let below = attach(&Container::start(image, "mount -t tmpfs x run/secrets/kubernetes.io")).unwrap_err();
        assert_eq!(
            below.to_string(),
            "refusing to hide what is mounted at the container's \"/run/secrets/kubernetes.io\""
        );
        let bind = attach(&Container::start(image, "mount --bind /usr run/secrets")).unwrap_err();
        assert!(matches!(bind, AttachError::Occupied { .. }), "{bind:?}");
        let part_of_a_tmpfs = "mount -t tmpfs x run && mkdir -p run/a run/secrets && mount --bind run/a run/secrets";
        let bind = attach(&Container::start(image, part_of_a_tmpfs)).unwrap_err();
        assert!(matches!(bind, AttachError::Occupied { .. }), "{bind:?}");
    }

    #[test]
    fn covers_an_empty_tmpfs_and_ignores_mounts_that_it_hides() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &Path| create_dir_all(rootfs.join("run/secrets/hidden")).unwrap();
        let container = Container::start(image, "mount -t tmpfs x run/secrets/hidden && mount -t tmpfs x run/secrets");
        attach(&container).unwrap();
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
    }

    #[test]
    fn refuses_a_root_filesystem_that_is_not_mounted() {
        if !is_root() {
            return;
        }
        let container = Container::unshare(&[], NOTHING, "true");
        assert!(matches!(attach(&container), Err(AttachError::NotMounted { .. })));
    }

    #[test]
    fn refuses_a_target_that_the_host_shares() {
        if !is_root() {
            return;
        }
        /// A shared tmpfs on the host, as long as the test takes.
        struct HostMount(tempfile::TempDir);
        impl Drop for HostMount {
            fn drop(&mut self) {
                let _ = unmount(self.0.path(), UnmountFlags::DETACH);
            }
        }
        let host = HostMount(tempfile::tempdir().unwrap());
        let options = rustix::mount::MountFlags::empty();
        rustix::mount::mount("x", host.0.path(), "tmpfs", options, None).unwrap();
        let shared = rustix::mount::MountPropagationFlags::SHARED;
        rustix::mount::mount_change(host.0.path(), shared).unwrap();

        let script = format!("mount --bind . . && mkdir run && mount --bind {} run", host.0.path().display());
        let container = Container::unshare(&["--propagation", "unchanged"], NOTHING, &script);
        assert!(matches!(attach(&container), Err(AttachError::Shared)));
        assert_eq!(tmpfs_mounts(&container), 1);
    }

    #[test]
    fn refuses_a_container_that_has_ended() {
        if !is_root() {
            return;
        }
        let mut container = Container::start(NOTHING, "true");
        let process = container.process();
        container.end();
        let error = frozen().attach(&process, &container.rootfs()).unwrap_err();
        assert!(matches!(error, AttachError::Process(ProcessError::Gone)), "{error:?}");
    }

    #[test]
    fn leaves_no_mount_when_dropped_or_detached() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        drop(frozen());
        assert_eq!(tmpfs_mounts(&container), 0);
        let attach_and_detach = || {
            let frozen = frozen();
            frozen.attach_on_this_thread(&container.process(), &container.rootfs()).unwrap();
            assert_eq!(tmpfs_mounts(&container), 1);
            frozen.detach().unwrap();
        };
        std::thread::scope(|scope| scope.spawn(attach_and_detach).join().unwrap());
        assert_eq!(tmpfs_mounts(&container), 0);
    }

    #[test]
    fn notices_when_another_frozen_tmpfs_is_in_its_place() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        attach(&container).unwrap();
        let verify = || {
            let procfs = Procfs::open().unwrap();
            enter(&container.process()).unwrap();
            let rootfs = target::open_rootfs(&container.rootfs()).unwrap();
            frozen().verify(&procfs, rootfs.as_fd())
        };
        let verified = std::thread::scope(|scope| scope.spawn(verify).join().unwrap());
        assert!(matches!(verified, Err(AttachError::NotInPlace)), "{verified:?}");
    }
}
