//! Another tmpfs in the place of a delivery, in a container that runs.
//!
//! ```text
//! Current::find ─► Frozen::filled ─► Frozen::replace: mounted beneath the current one ─► the current one unmounted
//! ```
//!
//! The new tmpfs is complete before it is mounted, with a copy of every mount that the container has below the current one. At each
//! moment the path shows the whole of the one or of the other.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount,
    fsopen, move_mount, open_tree, unmount,
};
use serde::{Deserialize, Serialize};

use super::carry::outermost;
use super::frozen::is_frozen;
use super::site::{SOURCE, inside_running};
use super::{Frozen, Placeholders, SiteError, TARGET, target};
use crate::container::{FileName, Mounts, MountsError, Owner, Process, ProcessError, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};
use crate::secret::Secret;

const BY_DESCRIPTOR: MoveMountFlags =
    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// The mount of a delivery, as the kernel numbers it. Together, both numbers distinguish it from every mount after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryId {
    device: u64,
    mount: u64,
}

/// The delivery that a running container has, and copies of what is mounted below it.
#[derive(Debug)]
pub struct Current {
    id: DeliveryId,
    /// A second mount of its tmpfs, which nothing is mounted on.
    view: OwnedFd,
    copies: Vec<Copy>,
}

#[derive(Debug)]
struct Copy {
    path: PathBuf,
    mount: OwnedFd,
    is_directory: bool,
}

impl Frozen {
    /// The numbers of the mount, which stay the same when it is attached.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn id(&self) -> Result<DeliveryId, SwapError> {
        id(&Procfs::open()?, self.mount.as_fd())
    }

    /// Puts this tmpfs in the place of the current delivery.
    ///
    /// # Errors
    /// The container has ended, its mounts have changed, or the kernel refuses. The current delivery stays, and the files of this one are
    /// destroyed.
    pub fn replace(self, current: &Current, container: &Process) -> Result<(), SwapError> {
        let hold = self.hold()?;
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

impl Current {
    /// Finds the delivery of a running container.
    ///
    /// # Errors
    /// The container has unmounted or covered it, or the kernel refuses.
    pub fn find(id: DeliveryId, container: &Process) -> Result<Current, SwapError> {
        inside_running(container, |procfs| {
            let (found, mounts) = open_current(procfs, id)?;
            let copies = paths_below(&mounts, id).into_iter().map(|path| {
                let mount = target::open_below(found.as_fd(), &path).map_err(failed("openat2(mount)"))?;
                let is_directory = FileType::from_raw_mode(fstat(&mount).map_err(failed("fstat"))?.st_mode).is_dir();
                Ok(Copy { mount: clone(&mount, OpenTreeFlags::AT_RECURSIVE)?, path, is_directory })
            });
            let copies = copies.collect::<Result<_, SyscallError>>()?;
            Ok(Current { id, view: clone(&found, OpenTreeFlags::empty())?, copies })
        })
    }

    /// What [`Frozen::filled`] needs for a tmpfs in its place.
    pub fn placeholders(&self) -> Placeholders {
        let mut placeholders = Placeholders::default();
        self.copies.iter().for_each(|copy| placeholders.insert(&copy.path, copy.is_directory));
        placeholders
    }

    /// Whether it has these files, with this content, and no others.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn has(&self, files: &[(&FileName, &Secret)]) -> Result<bool, SwapError> {
        let names = self.names()?;
        let mut same = names.len() == files.len();
        for (name, secret) in files {
            same = same && names.contains(name) && self.read(name)?.0.expose() == secret.expose();
        }
        Ok(same)
    }

    /// The names of its files.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self) -> Result<Vec<FileName>, SwapError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.view, ".", flags, Mode::empty()).and_then(Dir::new);
        let mut names = Vec::new();
        for entry in directory.map_err(failed("open(tmpfs)"))? {
            let entry = entry.map_err(failed("getdents(tmpfs)"))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let is_place = self.copies.iter().any(|copy| copy.path.starts_with(name));
            if !is_place && let Some(name) = name.to_str().and_then(|name| name.parse().ok()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The content of a file, and its owner.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &FileName) -> Result<(Secret, Owner), SwapError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat2(&self.view, name.as_str(), flags, Mode::empty(), resolve).map_err(failed("openat2(file)"))?;
        let stat = fstat(&file).map_err(failed("fstat(file)"))?;
        // The full capacity avoids copies that stay in memory.
        let mut content = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or_default() + 1);
        let read = File::from(file).read_to_end(&mut content);
        let secret = Secret::new(content);
        read.map_err(failed("read(file)"))?;
        Ok((secret, Owner { uid: stat.st_uid, gid: stat.st_gid }))
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

fn is_delivery(mount: &crate::container::Mount) -> bool {
    mount.fs_type == "tmpfs" && mount.source == SOURCE && mount.root == Path::new("/")
}

/// Opens the delivery in this thread's mount namespace, wherever it is mounted there.
fn open_current(procfs: &Procfs, current: DeliveryId) -> Result<(OwnedFd, Mounts), SwapError> {
    let mounts = Mounts::parse(&procfs.read("thread-self/mountinfo")?)?;
    let mount = mounts.get(current.mount).filter(|mount| is_delivery(mount)).ok_or(SwapError::Absent)?;
    let path = mount.point.strip_prefix("/").unwrap_or(&mount.point);
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(failed(r#"open("/")"#))?;
    let found = target::open_below(root.as_fd(), path).map_err(failed("openat2(delivery)"))?;
    match id(procfs, found.as_fd())? {
        found if found.mount != current.mount => Err(SwapError::Covered),
        found if found.device != current.device => Err(SwapError::Absent),
        _ if !is_frozen(&found)? => Err(SwapError::Absent),
        _ => Ok((found, mounts)),
    }
}

fn id(procfs: &Procfs, mount: BorrowedFd<'_>) -> Result<DeliveryId, SwapError> {
    let device = fstat(mount).map_err(failed("fstat(tmpfs)"))?.st_dev;
    Ok(DeliveryId { device, mount: procfs.mount_id(mount)? })
}

/// Where below a delivery something is mounted, in order, without what such a mount hides or holds.
fn paths_below(mounts: &Mounts, id: DeliveryId) -> Vec<PathBuf> {
    let Some(delivery) = mounts.get(id.mount) else { return Vec::new() };
    let below = mounts.iter().filter(|mount| mount.parent == id.mount);
    let below = below.filter_map(|mount| mount.point.strip_prefix(&delivery.point).ok());
    let below = outermost(below.filter(|path| !path.as_os_str().is_empty()).collect());
    below.into_iter().map(Path::to_owned).collect()
}

fn clone(mount: &OwnedFd, more: OpenTreeFlags) -> Result<OwnedFd, SyscallError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH | more;
    open_tree(mount, "", flags).map_err(failed("open_tree(mount)"))
}

fn detach(mount: &OwnedFd) -> Result<(), SyscallError> {
    rustix::process::fchdir(mount).map_err(failed("fchdir(tmpfs)"))?;
    unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed(r#"umount2(".", MNT_DETACH)"#))
}

/// Checks that the kernel can replace a delivery in a running container.
///
/// # Errors
/// Linux before 6.5 cannot; before 6.15 it cannot carry mounts over.
pub fn require_replace(carries: bool) -> Result<(), UnsupportedError> {
    let missing = "/nonexistent/oci-secrets";
    match move_mount(CWD, missing, CWD, "/", MoveMountFlags::MOVE_MOUNT_BENEATH) {
        Err(Errno::INVAL) => Err(UnsupportedError::Replace),
        // The flag is known; that there is no such mount is found out later.
        _ if !carries => Ok(()),
        _ => match mount_on_detached() {
            Err(Errno::INVAL) => Err(UnsupportedError::Carry),
            _ => Ok(()),
        },
    }
}

/// Mounts a tmpfs without a path on another one.
fn mount_on_detached() -> rustix::io::Result<()> {
    let tmpfs = || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    move_mount(tmpfs()?, "", tmpfs()?, "", BY_DESCRIPTOR)
}

/// Why a host cannot update running containers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedError {
    /// The kernel is too old.
    #[error("cannot update the files of running containers: it needs Linux 6.5")]
    Replace,
    /// The kernel is too old for a container with mounts of its own.
    #[error("cannot update the files of a running container with mounts below {TARGET}: it needs Linux 6.15")]
    Carry,
}

impl Fault for UnsupportedError {
    fn class(&self) -> Class {
        Class::Kernel
    }

    fn hint(&self) -> Option<String> {
        Some("without the annotation run.secrets.update, the container keeps the files of its start".into())
    }
}

/// Why the delivery of a running container cannot be replaced.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SwapError {
    /// It is not mounted any more.
    #[error("the container has unmounted the files at {TARGET}")]
    Absent,
    /// Something is mounted over it.
    #[error("the container has mounted something over the files at {TARGET}")]
    Covered,
    /// Something was mounted or unmounted below it meanwhile.
    #[error("the container has changed its mounts below {TARGET}")]
    Changed,
    /// The kernel does not unmount it.
    #[error("cannot unmount the previous files")]
    Stuck { source: SyscallError },
    /// The container's mount namespace cannot be entered.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The container's process has ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
    /// `mountinfo` is not in the documented format.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

impl Fault for SwapError {
    fn class(&self) -> Class {
        match self {
            SwapError::Absent | SwapError::Covered | SwapError::Changed => Class::NotPermitted,
            SwapError::Site(error) => error.class(),
            SwapError::Process(error) => error.class(),
            SwapError::Stuck { .. } | SwapError::Syscall(_) | SwapError::Procfs(_) | SwapError::Mounts(_) => {
                Class::Kernel
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{Container, NOTHING, frozen_for, is_root};
    use crate::deliver::{Carried, Tmpfs, TmpfsOptions};
    use crate::settings::Noswap;
    use std::fs::read_to_string;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    fn attach(container: &Container) -> DeliveryId {
        let carried = Carried::find(&container.process(), &container.rootfs()).unwrap();
        let frozen = frozen_for(carried.placeholders()).unwrap();
        let id = frozen.id().unwrap();
        frozen.attach(&carried, &container.process(), &container.spec()).unwrap();
        id
    }

    fn filled(content: &str, placeholders: Placeholders) -> Frozen {
        let options = TmpfsOptions { files: 1, bytes: 16, label: None, root: None, noswap: Noswap::Prefer };
        let tmpfs = Tmpfs::create(&options, placeholders).unwrap();
        let secret = Secret::new(content.as_bytes().to_vec());
        tmpfs.write(&"db".parse().unwrap(), &secret, Owner { uid: 1000, gid: 1001 }).unwrap();
        tmpfs.freeze().unwrap()
    }

    fn replace(container: &Container, id: DeliveryId, content: &str) -> Result<DeliveryId, SwapError> {
        let current = Current::find(id, &container.process())?;
        let frozen = filled(content, current.placeholders());
        let id = frozen.id()?;
        frozen.replace(&current, &container.process()).map(|()| id)
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
        let mut id = attach(&container);
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
        let id = attach(&container);
        let id = replace(&container, id, "second").unwrap();
        replace(&container, id, "third").unwrap();
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "third");
        assert_eq!(deliveries(&container), 1);
    }

    #[test]
    fn compares_content() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "mkdir -p run/secrets/a; mount -t tmpfs x run/secrets/a");
        let current = Current::find(attach(&container), &container.process()).unwrap();
        let (db, other): (FileName, FileName) = ("db".parse().unwrap(), "other".parse().unwrap());
        let (same, another) = (Secret::new(b"hunter2".to_vec()), Secret::new(b"hunter3".to_vec()));
        assert!(current.has(&[(&db, &same)]).unwrap());
        assert!(!current.has(&[(&db, &another)]).unwrap());
        assert!(!current.has(&[(&other, &same)]).unwrap());
        assert!(!current.has(&[(&db, &same), (&other, &same)]).unwrap());
        assert!(!current.has(&[]).unwrap());
    }

    #[test]
    fn leaves_what_the_container_has_covered_unmounted_or_changed() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "mkdir -p run/secrets/a; mount -t tmpfs x run/secrets/a");
        let id = attach(&container);
        let current = Current::find(id, &container.process()).unwrap();
        container.run("umount run/secrets/a");
        let frozen = filled("new", current.placeholders());
        assert!(matches!(frozen.replace(&current, &container.process()), Err(SwapError::Changed)));
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
        let from = attach(&container);
        let process = container.process();
        let frozen = filled("new", Placeholders::default());
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
