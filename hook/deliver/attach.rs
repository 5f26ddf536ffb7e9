//! The last step: a frozen tmpfs is mounted in the container.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::fstat;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::frozen::{Hold, is_frozen};
use super::preflight::require_uncovered;
use super::site::{Inside, Site, inside};
use super::{AttachError, Carried, Frozen, TARGET};
use crate::container::{Mounts, Process, ProcessError, Spec};
use crate::errno::{SyscallError, failed};

impl Frozen {
    /// Mounts the tmpfs at `/run/secrets` of a container that is being created, and everything that is carried over in it.
    ///
    /// From then on it exists as long as the container's mount namespace. By the returned hold, the files can be destroyed.
    ///
    /// # Errors
    /// When the process has ended, when the image, a mount or the spec stands in the way, or when the kernel refuses. Nothing stays
    /// attached, and the files are destroyed; an empty directory `/run/secrets` may have been made.
    pub fn attach(self, carried: &Carried, container: &Process, spec: &Spec) -> Result<Hold, AttachError> {
        inside(container, &spec.rootfs, |inside| self.attach_from_inside(carried, inside, spec))
    }

    fn attach_from_inside(&self, carried: &Carried, inside: &Inside<'_>, spec: &Spec) -> Result<Hold, AttachError> {
        let site = Site::make(inside)?;
        require_private(&site)?;
        carried.require_unchanged(&site)?;
        if !inside.container.is_alive() {
            return Err(ProcessError::Gone.into());
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.mount, "", &site.target, "", flags).map_err(failed(format!(r#"move_mount("{TARGET}")"#)))?;
        self.carry_over(carried, inside, spec).or_else(|error| {
            // Mounts that cannot be put back are lost with the container, which will not start.
            let _ = carried.put_back(&site);
            self.detach()?;
            Err(error)
        })
    }

    fn carry_over(&self, carried: &Carried, inside: &Inside<'_>, spec: &Spec) -> Result<Hold, AttachError> {
        carried.carry_over(self.mount.as_fd())?;
        self.verify(carried, inside, spec)?;
        Ok(self.hold_mounted()?)
    }

    /// Looks the target up again, starting at the host's path: it must be this tmpfs, still frozen, with every mount that was
    /// carried over, and no mount of the spec may cover it afterwards.
    fn verify(&self, carried: &Carried, inside: &Inside<'_>, spec: &Spec) -> Result<(), AttachError> {
        let procfs = &inside.procfs;
        let (rootfs, found) = inside.reopen()?;
        let device = |descriptor: BorrowedFd<'_>| fstat(descriptor).map(|stat| stat.st_dev).map_err(failed("fstat"));
        let same = procfs.mount_id(&found)? == procfs.mount_id(&self.mount)?
            && device(found.as_fd())? == device(self.mount.as_fd())?;
        if !same || !is_frozen(&found)? {
            return Err(AttachError::NotInPlace);
        }
        carried.verify(procfs, found.as_fd())?;
        require_uncovered(procfs, rootfs.as_fd(), &procfs.path(&found)?, spec)
    }

    /// Unmounts the tmpfs by descriptor, wherever it is mounted now, and destroys the files.
    fn detach(&self) -> Result<(), SyscallError> {
        // If this fails, only a second mount of the tmpfs still holds them; or it is the broker's, which destroys them.
        let _ = self.hold_mounted().and_then(|hold| hold.destroy());
        rustix::process::fchdir(&self.mount).map_err(failed("fchdir(tmpfs)"))?;
        unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed(r#"umount2(".", MNT_DETACH)"#))
    }
}

/// Refuses a target where attaching would show the files to the host.
fn require_private(site: &Site<'_>) -> Result<(), AttachError> {
    let group = site.mount.peer_group;
    // Few containers share their mounts, and a busy host has thousands.
    if group.is_none() {
        return Ok(());
    }
    // The mounts of the process's first thread, which stays in the host's mount namespace.
    let host = Mounts::parse(&site.procfs.read("self/mountinfo")?)?;
    if host.iter().any(|mount| mount.peer_group == group || mount.master == group) {
        return Err(AttachError::Shared);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{Container, NOTHING, attach, frozen, is_root};
    use std::fs::{create_dir_all, read_to_string};
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

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
        // Also where the host only receives what is mounted there.
        rustix::mount::mount_change(host.0.path(), rustix::mount::MountPropagationFlags::DOWNSTREAM).unwrap();
        assert!(matches!(attach(&container), Err(AttachError::Shared)));
    }

    #[test]
    fn refuses_a_container_that_has_ended() {
        if !is_root() {
            return;
        }
        let mut container = Container::start(NOTHING, "true");
        let process = container.process();
        container.end();
        let error = frozen().attach(&Carried::default(), &process, &container.spec()).unwrap_err();
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
        let attach_and_detach = |inside: &Inside<'_>| {
            let frozen = frozen();
            frozen.attach_from_inside(&Carried::default(), inside, &container.spec())?;
            assert_eq!(tmpfs_mounts(&container), 1);
            Ok::<_, AttachError>(frozen.detach()?)
        };
        inside(&container.process(), &container.rootfs(), attach_and_detach).unwrap();
        assert_eq!(tmpfs_mounts(&container), 0);
    }

    #[test]
    fn a_second_mount_or_an_open_file_holds_no_secret_after_a_refusal() {
        if !is_root() {
            return;
        }
        let copy = |rootfs: &Path| create_dir_all(rootfs.join("copy")).unwrap();
        let container = Container::start(copy, "true");
        let (taken, other) = (container.rootfs().join("run/secrets"), container.rootfs().join("copy"));
        let refuse = |inside: &Inside<'_>| {
            let frozen = frozen();
            frozen.attach_from_inside(&Carried::default(), inside, &container.spec())?;
            let mut file = std::fs::File::open(taken.join("db")).unwrap();
            rustix::mount::mount_bind(&taken, &other).unwrap();
            // Their own mounts at its place are theirs.
            let mine = container.rootfs().join("mine");
            std::fs::write(&mine, "mine").unwrap();
            rustix::mount::mount_bind(&mine, taken.join("db")).unwrap();
            frozen.detach()?;
            let mut content = String::new();
            io::Read::read_to_string(&mut file, &mut content).unwrap();
            assert_eq!((content.as_str(), read_to_string(mine).unwrap().as_str()), ("", "mine"));
            assert!(read_to_string(other.join("db")).unwrap_or_default().is_empty());
            Ok::<_, AttachError>(())
        };
        inside(&container.process(), &container.rootfs(), refuse).unwrap();
    }

    #[test]
    fn notices_when_another_frozen_tmpfs_is_in_its_place() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        attach(&container).unwrap();
        let process = container.process();
        let verified = inside(&process, &container.rootfs(), |inside| {
            frozen().verify(&Carried::default(), inside, &container.spec())
        });
        assert!(matches!(verified, Err(AttachError::NotInPlace)), "{verified:?}");
    }
}
