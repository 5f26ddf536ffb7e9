//! A tmpfs that can no longer change.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, StatVfsMountFlags, openat2, unlinkat};
use rustix::mount::{FsPickFlags, OpenTreeFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, open_tree};

use crate::errno::{SyscallError, failed};
use crate::run_directory::TMPFS_MAGIC;

/// A tmpfs that holds every secret of one container and can no longer change.
///
/// It has no path: until [`Frozen::attach`] gives it one inside the container, the only way to it is this descriptor. Dropping
/// it destroys the files. What makes it read-only is its superblock, which belongs to the user namespace of the hook: a
/// container with capabilities in a user namespace of its own can remount the mount, but not make the files writable.
#[derive(Debug)]
pub struct Frozen {
    pub(super) mount: OwnedFd,
    pub(super) noswap: bool,
}

impl Frozen {
    /// The mount, for another process that will attach it.
    pub fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// A second mount of the tmpfs without a path, by which the files can be destroyed wherever else it is mounted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold(&self) -> Result<Hold, SyscallError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let view = open_tree(&self.mount, "", flags).map_err(failed("open_tree(tmpfs)"))?;
        Ok(Hold { view, noswap: self.noswap })
    }
}

/// A mount of a frozen tmpfs in which no other process can have mounted anything.
#[derive(Debug)]
pub struct Hold {
    view: OwnedFd,
    noswap: bool,
}

impl Hold {
    /// Destroys the files in every mount of the tmpfs: a process in the container may have mounted it a second time, or
    /// hold a file open.
    ///
    /// # Errors
    /// When the kernel refuses; files may then be left.
    pub fn destroy(&self) -> Result<(), SyscallError> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&self.view, "", flags).map_err(failed("fspick(tmpfs)"))?;
        reconfigure(&context, "rw", self.noswap)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let open = |name: &CStr, flags| openat2(&self.view, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        let directory = open(c".", OFlags::RDONLY | OFlags::DIRECTORY).and_then(Dir::new);
        for entry in directory.map_err(failed("openat2(tmpfs)"))? {
            let entry = entry.map_err(failed("getdents(tmpfs)"))?;
            // Open descriptors then read nothing either.
            let _ = open(entry.file_name(), OFlags::WRONLY | OFlags::TRUNC);
            let _ = unlinkat(&self.view, entry.file_name(), AtFlags::empty());
        }
        Ok(())
    }
}

/// Makes a superblock read-only or writable.
pub(super) fn reconfigure(context: &OwnedFd, flag: &str, noswap: bool) -> Result<(), SyscallError> {
    if noswap {
        // Linux 6.4 up to the stable releases of November 2025 take its absence for a request to change it, and refuse.
        fsconfig_set_flag(context, "noswap").map_err(failed(r#"fsconfig("noswap")"#))?;
    }
    fsconfig_set_flag(context, flag).map_err(failed(format!("fsconfig({flag:?})")))?;
    fsconfig_reconfigure(context).map_err(failed("fsconfig(FSCONFIG_CMD_RECONFIGURE)"))
}

/// Whether a descriptor leads to a tmpfs as [`Tmpfs::freeze`](super::Tmpfs::freeze) leaves it.
pub(super) fn is_frozen(descriptor: impl AsFd) -> Result<bool, SyscallError> {
    let expected =
        StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    let filesystem = rustix::fs::fstatfs(&descriptor).map_err(failed("fstatfs(tmpfs)"))?;
    let flags = rustix::fs::fstatvfs(&descriptor).map_err(failed("fstatfs(tmpfs)"))?.f_flag;
    Ok(filesystem.f_type == TMPFS_MAGIC && flags.contains(expected))
}
