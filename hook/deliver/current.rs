//! The delivery that a running container has.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use super::carry::outermost;
use super::frozen::is_frozen;
use super::site::{SOURCE, inside_running};
use super::{Placeholders, SiteError, TARGET, target};
use crate::container::{FileName, Mounts, MountsError, Owner, Process, ProcessError, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};
use crate::secret::Secret;

/// The mount of a delivery, as the kernel numbers it. Together, both numbers distinguish it from every mount after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryId {
    pub(super) device: u64,
    pub(super) mount: u64,
}

/// The delivery that a running container has, and copies of what is mounted below it.
#[derive(Debug)]
pub struct Current {
    pub(super) id: DeliveryId,
    /// A second mount of its tmpfs, which nothing is mounted on.
    view: OwnedFd,
    pub(super) copies: Vec<Copy>,
}

/// A copy of a mount below a delivery.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) path: PathBuf,
    pub(super) mount: OwnedFd,
    is_directory: bool,
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

    /// What [`Frozen::filled`](super::Frozen::filled) needs for a tmpfs in its place.
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

fn is_delivery(mount: &crate::container::Mount) -> bool {
    mount.fs_type == "tmpfs" && mount.source == SOURCE && mount.root == Path::new("/")
}

/// Opens the delivery in this thread's mount namespace, wherever it is mounted there.
pub(super) fn open_current(procfs: &Procfs, current: DeliveryId) -> Result<(OwnedFd, Mounts), SwapError> {
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

pub(super) fn id(procfs: &Procfs, mount: BorrowedFd<'_>) -> Result<DeliveryId, SwapError> {
    let device = fstat(mount).map_err(failed("fstat(tmpfs)"))?.st_dev;
    Ok(DeliveryId { device, mount: procfs.mount_id(mount)? })
}

/// Where below a delivery something is mounted, in order, without what such a mount hides or holds.
pub(super) fn paths_below(mounts: &Mounts, id: DeliveryId) -> Vec<PathBuf> {
    let Some(delivery) = mounts.get(id.mount) else { return Vec::new() };
    let below = mounts.iter().filter(|mount| mount.parent == id.mount);
    let below = below.filter_map(|mount| mount.point.strip_prefix(&delivery.point).ok());
    let below = outermost(below.filter(|path| !path.as_os_str().is_empty()).collect());
    below.into_iter().map(Path::to_owned).collect()
}

pub(super) fn clone(mount: &OwnedFd, more: OpenTreeFlags) -> Result<OwnedFd, SyscallError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH | more;
    open_tree(mount, "", flags).map_err(failed("open_tree(mount)"))
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
    /// A process of the container has opened a file for writing while files were removed.
    #[error("the container can write to the files that are left: they cannot be made read-only again")]
    Thawed { source: SyscallError },
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
            SwapError::Stuck { .. }
            | SwapError::Thawed { .. }
            | SwapError::Syscall(_)
            | SwapError::Procfs(_)
            | SwapError::Mounts(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SwapError::Site(error) => error.hint(),
            SwapError::Process(error) => error.hint(),
            SwapError::Syscall(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{Container, NOTHING, delivered, is_root};

    #[test]
    fn an_error_has_the_hint_of_its_cause() {
        let error = SwapError::from(failed("move_mount")(rustix::io::Errno::NOSYS));
        assert!(error.hint().is_some());
    }

    #[test]
    fn compares_content() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "mkdir -p run/secrets/a; mount -t tmpfs x run/secrets/a");
        let current = Current::find(delivered(&container), &container.process()).unwrap();
        let (db, other): (FileName, FileName) = ("db".parse().unwrap(), "other".parse().unwrap());
        let (same, another) = (Secret::new(b"hunter2".to_vec()), Secret::new(b"hunter3".to_vec()));
        assert!(current.has(&[(&db, &same)]).unwrap());
        assert!(!current.has(&[(&db, &another)]).unwrap());
        assert!(!current.has(&[(&other, &same)]).unwrap());
        assert!(!current.has(&[(&db, &same), (&other, &same)]).unwrap());
        assert!(!current.has(&[]).unwrap());
    }
}
