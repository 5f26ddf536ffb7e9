//! A tmpfs that can no longer change.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, StatVfsMountFlags, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick,
    mount_change, move_mount, open_tree,
};

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
}

impl Frozen {
    /// The mount, for another process that will attach it.
    pub fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// The tmpfs with a second mount of it without a path, by which the files can be destroyed wherever else it is mounted.
    ///
    /// The first one may be another mount than before.
    ///
    /// # Errors
    /// When the kernel refuses. The files are destroyed.
    pub fn hold(mut self) -> Result<(Frozen, Hold), SyscallError> {
        let view = match self.copy() {
            // Before Linux 6.15, the kernel copies only what is mounted in the mount namespace of the caller.
            Err(Errno::INVAL) => {
                let [mount, view] = self.copies_of_mounted()?;
                self.mount = mount;
                view
            }
            copy => copy.map_err(failed(COPY))?,
        };
        Ok((self, Hold { view }))
    }

    /// The same for a tmpfs that is mounted in the mount namespace of this thread.
    pub(super) fn hold_mounted(&self) -> Result<Hold, SyscallError> {
        Ok(Hold { view: self.copy().map_err(failed(COPY))? })
    }

    /// Two copies of the mount, which is mounted for that in a mount namespace that ends with this call.
    fn copies_of_mounted(&self) -> Result<[OwnedFd; 2], SyscallError> {
        let mount_and_copy = || {
            unshare(CloneFlags::CLONE_NEWNS).map_err(failed("unshare(CLONE_NEWNS)"))?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            // Otherwise the host would see the files.
            mount_change("/", private).map_err(failed(r#"mount("/", MS_PRIVATE | MS_REC)"#))?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&self.mount, "", CWD, "/", flags).map_err(failed(r#"move_mount("/")"#))?;
            let copy = || self.copy().map_err(failed(COPY));
            Ok([copy()?, copy()?])
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("copies".to_owned());
            let thread = thread.spawn_scoped(scope, mount_and_copy).map_err(failed("clone"))?;
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn copy(&self) -> Result<OwnedFd, Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&self.mount, "", flags)
    }
}

const COPY: &str = "open_tree(tmpfs)";

/// A mount of a frozen tmpfs in which no other process can have mounted anything.
#[derive(Debug)]
pub struct Hold {
    pub(super) view: OwnedFd,
}

impl Hold {
    /// Destroys the files in every mount of the tmpfs: a process in the container may have mounted it a second time, or
    /// hold a file open.
    ///
    /// # Errors
    /// When the kernel refuses; files may then be left.
    pub fn destroy(&self) -> Result<(), SyscallError> {
        self.reconfigure("rw")?;
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

    /// Makes the superblock read-only or writable. A kernel may want to hear of `noswap` again; whether the tmpfs has it, only an error says.
    pub(super) fn reconfigure(&self, flag: &str) -> Result<(), SyscallError> {
        let reconfigured = |noswap| {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = fspick(&self.view, "", flags).map_err(failed("fspick(tmpfs)"))?;
            reconfigure(&context, flag, noswap)
        };
        reconfigured(true).or_else(|_| reconfigured(false))
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
///
/// # Errors
/// When the kernel refuses.
pub fn is_frozen(descriptor: impl AsFd) -> Result<bool, SyscallError> {
    let expected =
        StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    let filesystem = rustix::fs::fstatfs(&descriptor).map_err(failed("fstatfs(tmpfs)"))?;
    let flags = rustix::fs::fstatvfs(&descriptor).map_err(failed("fstatfs(tmpfs)"))?.f_flag;
    Ok(filesystem.f_type == TMPFS_MAGIC && flags.contains(expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Carried;
    use crate::deliver::testing::{Container, NOTHING, frozen, is_root};
    use std::fs::{read_dir, read_to_string};

    #[test]
    fn copies_for_older_kernels_are_attached_and_destroyed_like_the_first() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        let mounts = || read_to_string("/proc/self/mountinfo").unwrap();
        let (first, before) = (frozen(), mounts());
        let [mount, view] = first.copies_of_mounted().unwrap();
        drop(first);
        Frozen { mount }.attach(&Carried::default(), &container.process(), &container.spec()).unwrap();
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
        assert_eq!(mounts(), before, "a mount on the host");
        Hold { view }.destroy().unwrap();
        assert_eq!(read_dir(container.inside("/run/secrets")).unwrap().count(), 0);
    }
}
