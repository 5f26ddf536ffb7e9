//! Another tmpfs in the place of a delivery, in a container that runs.
//!
//! ```text
//! Current::find ─► Frozen::filled ─► Frozen::replace: mounted beneath the current one ─► the current one unmounted
//! ```
//!
//! The new tmpfs is complete before it is mounted, with a copy of every mount that the container has below the current one. At each
//! moment the path shows the whole of the one or of the other.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::current::{Current, DeliveryId, SwapError, id, open_current, paths_below};
use super::site::inside_running;
use super::{Frozen, Hold, target};
use crate::container::{Mounts, Process, ProcessError, Procfs};
use crate::errno::{SyscallError, failed};

pub(super) const BY_DESCRIPTOR: MoveMountFlags =
    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

impl Frozen {
    /// The numbers of the mount, which stay the same when it is attached.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn id(&self) -> Result<DeliveryId, SwapError> {
        id(&Procfs::open()?, self.mount.as_fd())
    }

    /// Puts this tmpfs, which `hold` holds, in the place of the current delivery.
    ///
    /// # Errors
    /// The container has ended, its mounts have changed, or the kernel refuses. The current delivery stays, and the files of this one are
    /// destroyed.
    pub fn replace(self, hold: &Hold, current: &Current, container: &Process) -> Result<(), SwapError> {
        let outcome = inside_running(container, |procfs| {
            let (found, mounts) = open_current(procfs, current.id)?;
            if !paths_below(&mounts, current.id).into_iter().eq(current.copies.iter().map(|copy| copy.path.clone())) {
                return Err(SwapError::Changed);
            }
            for copy in &current.copies {
                let place = target::open_below(self.mount.as_fd(), &copy.path).map_err(failed("openat2(tmpfs)"))?;
                move_mount(&copy.mount, "", place, "", BY_DESCRIPTOR).map_err(failed("move_mount(copy)"))?;
            }
            if !container.is_alive() {
                return Err(ProcessError::Gone.into());
            }
            let beneath = BY_DESCRIPTOR | MoveMountFlags::MOVE_MOUNT_BENEATH;
            move_mount(&self.mount, "", &found, "", beneath).map_err(failed("move_mount(MOVE_MOUNT_BENEATH)"))?;
            detach(&found).map_err(|source| SwapError::Stuck { source })
        });
        if outcome.is_err() {
            // A mount that stays beneath the current one, which nothing leads to, must hold no secret.
            let _ = hold.destroy();
        }
        outcome
    }
}

/// Ends a [`Frozen::replace`] that was interrupted, and returns whether the new delivery is in the place of the one before.
///
/// # Errors
/// When the kernel refuses.
pub fn complete(from: DeliveryId, to: DeliveryId, container: &Process) -> Result<bool, SwapError> {
    inside_running(container, |procfs| {
        let mounts = Mounts::parse(&procfs.read("thread-self/mountinfo")?)?;
        // A mount beneath the current one is complete.
        if mounts.get(from.mount).is_some_and(|mount| mount.parent == to.mount) {
            let (found, _) = open_current(procfs, from)?;
            detach(&found).map_err(|source| SwapError::Stuck { source })?;
        }
        match open_current(procfs, to) {
            Ok(_) => Ok(true),
            Err(SwapError::Absent) => Ok(false),
            Err(error) => Err(error),
        }
    })
}

fn detach(mount: &OwnedFd) -> Result<(), SyscallError> {
    rustix::process::fchdir(mount).map_err(failed("fchdir(tmpfs)"))?;
    unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed(r#"umount2(".", MNT_DETACH)"#))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Placeholders;
    use crate::deliver::frozen::is_frozen;
    use crate::deliver::site::SOURCE;
    use crate::deliver::testing::{Container, NOTHING, delivered, frozen_with, is_root};
    use std::fs::{File, read_to_string};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::Path;

    fn replace(container: &Container, id: DeliveryId, content: &str) -> Result<DeliveryId, SwapError> {
        let current = Current::find(id, &container.process())?;
        let (frozen, hold) = frozen_with(content, current.placeholders()).unwrap().hold()?;
        let id = frozen.id()?;
        frozen.replace(&hold, &current, &container.process()).map(|()| id)
    }

    fn deliveries(container: &Container) -> usize {
        container.process().mounts().unwrap().iter().filter(|mount| mount.source == SOURCE).count()
    }

    #[test]
    fn replaces_the_files_again_and_again_with_the_mounts_below_them() {
        if !is_root() {
            return;
        }
        let script = "mkdir -p run/secrets src; echo own > src/f; cd run/secrets; mkdir a; mount --bind ../../src a;
            mount -o remount,bind,ro,noexec a; touch token; mount --bind ../../src/f token";
        let container = Container::start(NOTHING, script);
        let mut id = delivered(&container);
        let open = File::open(container.inside("/run/secrets/db")).unwrap();
        for round in 0..5 {
            let content = format!("secret {round}");
            id = replace(&container, id, &content).unwrap();
            assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), content);
            for file in ["a/f", "token"] {
                assert_eq!(read_to_string(container.inside("/run/secrets").join(file)).unwrap(), "own\n");
            }
            assert_eq!(deliveries(&container), 1);
        }
        let write = std::fs::write(container.inside("/run/secrets/a/f"), "").unwrap_err();
        assert_eq!(write.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let metadata = container.inside("/run/secrets/db").metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode()), (1000, 1001, 0o100_400));
        assert!(is_frozen(File::open(container.inside("/run/secrets")).unwrap()).unwrap());
        // An open file keeps its content.
        assert_eq!(std::io::read_to_string(open).unwrap(), "hunter2");
    }

    #[test]
    fn replaces_the_files_in_a_user_namespace() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &Path| {
            for directory in [rootfs, rootfs.parent().unwrap()] {
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            std::fs::create_dir_all(rootfs.join("run/secrets/own")).unwrap();
        };
        let container = Container::unshare(&["--user"], image, "true");
        container.map_ids();
        container.run("mount --bind . .; mount -t tmpfs x run/secrets/own");
        let id = delivered(&container);
        let id = replace(&container, id, "second").unwrap();
        replace(&container, id, "third").unwrap();
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "third");
        assert_eq!(deliveries(&container), 1);
    }

    #[test]
    fn leaves_what_the_container_has_covered_unmounted_or_changed() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "mkdir -p run/secrets/a; mount -t tmpfs x run/secrets/a");
        let id = delivered(&container);
        let current = Current::find(id, &container.process()).unwrap();
        container.run("umount run/secrets/a");
        let (frozen, hold) = frozen_with("new", current.placeholders()).unwrap().hold().unwrap();
        assert!(matches!(frozen.replace(&hold, &current, &container.process()), Err(SwapError::Changed)));
        let file = rustix::fs::openat(&hold.view, "db", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        assert_eq!(file.err(), Some(rustix::io::Errno::NOENT), "the new files are not destroyed");
        container.run("mount -t tmpfs x run/secrets");
        assert!(matches!(replace(&container, id, "new"), Err(SwapError::Covered)));
        container.run("umount run/secrets");
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
        container.run("umount run/secrets");
        assert!(matches!(replace(&container, id, "new"), Err(SwapError::Absent)));
    }

    #[test]
    fn completes_what_was_interrupted_between_the_two_steps() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        let from = delivered(&container);
        let process = container.process();
        let frozen = frozen_with("new", Placeholders::default()).unwrap();
        let to = frozen.id().unwrap();
        assert!(!complete(from, to, &process).unwrap());
        inside_running(&process, |procfs| {
            let (found, _) = open_current(procfs, from)?;
            let beneath = BY_DESCRIPTOR | MoveMountFlags::MOVE_MOUNT_BENEATH;
            move_mount(&frozen.mount, "", &found, "", beneath).map_err(failed("move_mount"))?;
            Ok::<_, SwapError>(())
        })
        .unwrap();
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
        assert!(complete(from, to, &process).unwrap());
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "new");
        assert!(complete(from, to, &process).unwrap());
        assert_eq!(deliveries(&container), 1);
    }
}
