//! The target: the directory `/run/secrets` of the container, found and if need be made, by descriptor only.
//!
//! The image decides what `/run` and `/run/secrets` are, and may be hostile. The kernel resolves every path as if the root
//! filesystem were `/` (`RESOLVE_IN_ROOT`), so that no symlink leads out of it; what it finds is held by descriptor and not
//! looked up again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, FsWord, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, mkdirat, openat2};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::container::{Owner, Process, ProcessError};
use crate::errno::{SyscallError, failed};
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// The directory in which a container finds its files.
pub const TARGET: &str = "/run/secrets";

/// The filesystems in which the kernel shows itself: procfs, sysfs, both of cgroup. A directory there can go away with what it shows,
/// and takes along what is mounted on it: on one of the hook's own below `/proc/self`, that is the delivery, as soon as the hook has
/// ended well.
const OF_THE_KERNEL: [FsWord; 4] = [PROC_SUPER_MAGIC, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];

/// How often a path is resolved again if a rename raced with it (`EAGAIN`).
const ATTEMPTS: usize = 64;

/// Opens the root filesystem: a path of the host's, in the mount namespace of this thread.
pub(super) fn open_rootfs(path: &Path) -> Result<OwnedFd, TargetError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let call = || format!("open({})", Excerpt(&path.to_string_lossy()));
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(failed(call()))?)
}

/// Opens the target below the root filesystem.
pub(super) fn open(rootfs: BorrowedFd<'_>) -> Result<OwnedFd, TargetError> {
    let step = |path| usable(path, resolve(rootfs, path));
    step("/run").and_then(|_run| step(TARGET))
}

/// Opens the target below the root filesystem, after making what is missing of it.
///
/// A directory is made as the container's root would make it, with mode 0755 less this thread's umask. It stays when the
/// container ends.
pub(super) fn open_or_make(rootfs: BorrowedFd<'_>, container: &Process) -> Result<OwnedFd, TargetError> {
    let step = |path: &'static str, parent: BorrowedFd<'_>, name: &str| {
        let resolved = match resolve(rootfs, path) {
            Err(Errno::NOENT) => {
                make(parent, name, container)?.map_err(|errno| not_made(path, errno))?;
                resolve(rootfs, path)
            }
            other => other,
        };
        usable(path, resolved)
    };
    let run = step("/run", rootfs, "run")?;
    step(TARGET, run.as_fd(), "secrets")
}

/// Opens what is, or is mounted, at a path below a directory, without following any symlink.
pub(super) fn open_below(directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    persist(directory, path, OFlags::NOFOLLOW, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Opens whatever is at a path of the container's.
pub(super) fn open_any(rootfs: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    persist(rootfs, path, OFlags::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn resolve(rootfs: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    persist(rootfs, path.as_ref(), OFlags::DIRECTORY, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn persist(root: BorrowedFd<'_>, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let attempt = || openat2(root, path, flags, Mode::empty(), how);
    let settled = |opened: &Result<_, Errno>| !matches!(opened, Err(Errno::AGAIN | Errno::INTR));
    std::iter::repeat_with(attempt).take(ATTEMPTS).find(settled).unwrap_or(Err(Errno::AGAIN))
}

/// Makes a directory with the rights of the container's root; it is no error when something of that name exists.
fn make(parent: BorrowedFd<'_>, name: &str, container: &Process) -> Result<Result<(), Errno>, TargetError> {
    let mkdir = || match mkdirat(parent, name, Mode::from(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    };
    let Some(root) = container.foreign_root()? else { return Ok(mkdir()) };
    let stat = fstat(parent).map_err(failed("fstat(parent)"))?;
    let is_owner_mapped = container.has_owner(Owner { uid: stat.st_uid, gid: stat.st_gid });
    Ok(as_foreign_root(root, is_owner_mapped, mkdir))
}

/// Does something as the root of the container's user namespace, given in ids of ours: a filesystem of that namespace cannot store ids
/// that are not mapped there.
///
/// With root's id, the kernel takes the capabilities over files from this thread. The container's root has them over files whose owner is
/// mapped (user_namespaces(7)), and nothing more: a directory of the host's that is mounted in the container stays closed to it.
fn as_foreign_root(root: Owner, is_owner_mapped: bool, work: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    let group = setfsgid(Gid::from_raw(root.gid));
    let previous = setfsuid(Uid::from_raw(root.uid));
    let done = match work() {
        Err(Errno::ACCESS) if is_owner_mapped => override_permissions().and_then(|()| work()),
        done => done,
    };
    // This also sets the capabilities over files as they were.
    setfsuid(previous);
    setfsgid(group);
    done
}

/// Takes the right to write to directories of others, as far as this process may have it. It is for this thread only.
fn override_permissions() -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    sets.effective |= CapabilitySet::DAC_OVERRIDE & sets.permitted;
    set_capabilities(None, sets)
}

/// What was resolved, unless it belongs to the kernel.
fn usable(path: &'static str, resolved: Result<OwnedFd, Errno>) -> Result<OwnedFd, TargetError> {
    let directory = resolved.map_err(|errno| not_resolved(path, errno))?;
    let filesystem = fstatfs(&directory).map_err(failed(format!(r#"fstatfs("{path}")"#)))?;
    if OF_THE_KERNEL.contains(&filesystem.f_type) {
        return Err(TargetError::OfTheKernel { path });
    }
    Ok(directory)
}

/// Checks that the kernel can resolve a path inside a root.
///
/// # Errors
/// Linux before 5.6 cannot.
pub fn require_openat2() -> Result<(), TargetError> {
    open_root().map(drop).map_err(|errno| not_resolved("/", errno))
}

fn open_root() -> Result<OwnedFd, Errno> {
    openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

fn not_resolved(path: &'static str, errno: Errno) -> TargetError {
    match errno {
        Errno::NOSYS => TargetError::NoOpenat2,
        Errno::NOENT => TargetError::Dangling { path },
        Errno::NOTDIR => TargetError::NotADirectory { path },
        Errno::LOOP | Errno::XDEV => TargetError::Loop { path },
        other => failed(format!(r#"openat2("{path}", RESOLVE_IN_ROOT)"#))(other).into(),
    }
}

fn not_made(path: &'static str, errno: Errno) -> TargetError {
    match errno {
        Errno::ROFS => TargetError::ReadOnly { path },
        Errno::ACCESS | Errno::PERM => {
            TargetError::Forbidden { source: failed(format!(r#"mkdirat("{path}")"#))(errno) }
        }
        other => failed(format!(r#"mkdirat("{path}")"#))(other).into(),
    }
}

/// Why the container has no target.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum TargetError {
    /// The kernel cannot resolve a path inside a root.
    #[error("cannot resolve {TARGET}: openat2 is not implemented; Linux 5.6 is the oldest that is supported")]
    NoOpenat2,
    /// A symlink of the image leads to nothing.
    #[error("refusing to use the container's {path}: it is a symlink that leads nowhere")]
    Dangling { path: &'static str },
    /// The image has a file or device there, or on the way.
    #[error("refusing to use the container's {path}: it is not a directory")]
    NotADirectory { path: &'static str },
    /// The image's symlinks go in circles, or lead through `/proc` to some process's files.
    #[error("refusing to use the container's {path}: its symlinks lead in a circle or through /proc")]
    Loop { path: &'static str },
    /// The image's symlinks, or the spec's mounts, lead into a filesystem in which the kernel shows itself.
    #[error("refusing to use the container's {path}: it leads into /proc, /sys or a cgroup")]
    OfTheKernel { path: &'static str },
    /// The directory is missing on a filesystem that cannot get it.
    #[error("cannot make the container's {path}: it is missing, and the filesystem is read-only")]
    ReadOnly { path: &'static str },
    /// The directory is missing, and the container's root may not create it either.
    #[error(transparent)]
    Forbidden { source: SyscallError },
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// The container's root has no id here, and a directory must be made.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl Fault for TargetError {
    fn class(&self) -> Class {
        match self {
            TargetError::Process(error) => error.class(),
            TargetError::NoOpenat2 | TargetError::Syscall(_) => Class::Kernel,
            TargetError::Dangling { .. }
            | TargetError::NotADirectory { .. }
            | TargetError::Loop { .. }
            | TargetError::OfTheKernel { .. }
            | TargetError::ReadOnly { .. }
            | TargetError::Forbidden { .. } => Class::NotPermitted,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            TargetError::Process(error) => return error.hint(),
            TargetError::ReadOnly { .. } | TargetError::Forbidden { .. } => {
                "make /run/secrets in the image, or mount a tmpfs at /run"
            }
            TargetError::Dangling { .. } | TargetError::NotADirectory { .. } | TargetError::Loop { .. } => {
                "/run/secrets must be a directory in the image, or missing"
            }
            TargetError::Syscall(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{Container, attach, is_root};
    use crate::deliver::{AttachError, CarryError, SiteError};
    use std::fs::{create_dir, create_dir_all, read_to_string};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    #[test]
    fn keeps_symlinks_of_the_image_inside_of_it() {
        if !is_root() {
            return;
        }
        let outwards = |rootfs: &Path| {
            create_dir(rootfs.join("etc")).unwrap();
            symlink("/../../../../../../etc", rootfs.join("run")).unwrap();
        };
        let container = Container::start(outwards, "true");
        attach(&container).unwrap();
        assert_eq!(read_to_string(container.inside("/etc/secrets/db")).unwrap(), "hunter2");

        let absolute = |rootfs: &Path| {
            create_dir_all(rootfs.join("run")).unwrap();
            create_dir(rootfs.join("etc")).unwrap();
            symlink("/etc", rootfs.join("run/secrets")).unwrap();
        };
        let container = Container::start(absolute, "true");
        attach(&container).unwrap();
        assert_eq!(read_to_string(container.inside("/etc/db")).unwrap(), "hunter2");
        let mounts = container.process().mounts().unwrap();
        assert!(!mounts.iter().any(|mount| mount.point.starts_with("/etc")));
    }

    #[test]
    fn refuses_what_an_image_puts_in_the_way() {
        if !is_root() {
            return;
        }
        let refusal = |image: fn(&Path)| match attach(&Container::start(image, "true")) {
            Err(AttachError::Carry(CarryError::Site(SiteError::Target(error)))) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let dangling = refusal(|rootfs| symlink("/nowhere/at/all", rootfs.join("run")).unwrap());
        assert_eq!(dangling, "refusing to use the container's /run: it is a symlink that leads nowhere");
        let circle = refusal(|rootfs| symlink("run", rootfs.join("run")).unwrap());
        assert_eq!(circle, "refusing to use the container's /run: its symlinks lead in a circle or through /proc");
        let file = refusal(|rootfs| {
            create_dir(rootfs.join("run")).unwrap();
            std::fs::write(rootfs.join("run/secrets"), "").unwrap();
        });
        assert_eq!(file, "refusing to use the container's /run/secrets: it is not a directory");
    }

    #[test]
    fn refuses_symlinks_through_the_links_of_proc() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &Path| {
            create_dir(rootfs.join("proc")).unwrap();
            symlink("/proc/self/root/run", rootfs.join("run")).unwrap();
        };
        let container = Container::start(image, "mount -t proc proc proc");
        let error = attach(&container).unwrap_err();
        assert_eq!(
            error.to_string(),
            "refusing to use the container's /run: its symlinks lead in a circle or through /proc"
        );
    }

    #[test]
    fn refuses_directories_that_can_go_away() {
        if !is_root() {
            return;
        }
        for (link, target) in
            [("run", "/proc/self/task"), ("run/secrets", "/proc/self/map_files"), ("run/secrets", "/sys/fs")]
        {
            let image = |rootfs: &Path| {
                create_dir_all(rootfs.join("proc")).unwrap();
                create_dir_all(rootfs.join("sys")).unwrap();
                create_dir_all(rootfs.join(link).parent().unwrap()).unwrap();
                symlink(target, rootfs.join(link)).unwrap();
            };
            let container = Container::start(image, "mount -t proc proc proc; mount -t sysfs sysfs sys");
            let error = attach(&container).unwrap_err();
            let message = format!("refusing to use the container's /{link}: it leads into /proc, /sys or a cgroup");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn says_that_a_read_only_filesystem_lacks_the_directory() {
        if !is_root() {
            return;
        }
        let container =
            Container::start(|rootfs| create_dir(rootfs.join("run")).unwrap(), "mount -t tmpfs -o ro x run");
        let error = attach(&container).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot make the container's /run/secrets: it is missing, and the filesystem is read-only"
        );
    }

    /// An image with this owner of `/run`, whose container has a user namespace with ids from 1000 on.
    fn with_run_of(uid: u32, mode: u32) -> Container {
        let image = |rootfs: &Path| {
            for directory in [rootfs, rootfs.parent().unwrap()] {
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            let run = rootfs.join("run");
            create_dir(&run).unwrap();
            std::fs::set_permissions(&run, std::fs::Permissions::from_mode(mode)).unwrap();
            chown(&run, Some(uid), Some(uid)).unwrap();
        };
        let container = Container::unshare(&["--user"], image, "true");
        container.map_ids();
        container.run("mount --bind . .");
        container
    }

    #[test]
    fn makes_the_directory_below_one_of_another_user_of_the_container() {
        if !is_root() {
            return;
        }
        for mode in [0o755, 0o700, 0] {
            let container = with_run_of(1001, mode);
            attach(&container).unwrap();
            assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
            let made = container.rootfs().join("run/secrets").metadata().unwrap();
            assert_eq!((made.uid(), made.gid(), made.mode()), (1000, 1000, 0o40_755));
        }
    }

    #[test]
    fn makes_no_directory_that_the_containers_root_could_not_make() {
        if !is_root() {
            return;
        }
        for uid in [0, 999, 1010] {
            let container = with_run_of(uid, 0o755);
            let error = attach(&container).unwrap_err();
            assert_eq!(crate::report::chain(&error), r#"mkdirat("/run/secrets"): Permission denied (EACCES)"#);
            assert_eq!(error.hint().unwrap(), "make /run/secrets in the image, or mount a tmpfs at /run");
            assert!(!container.rootfs().join("run/secrets").exists());
        }
    }

    #[test]
    fn makes_the_directory_on_a_filesystem_of_another_user_namespace() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &Path| {
            for directory in [rootfs, rootfs.parent().unwrap()] {
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            create_dir(rootfs.join("run")).unwrap();
        };
        let container = Container::unshare(&["--user"], image, "true");
        container.map_ids();
        container.run("mount --bind . . && mount -t tmpfs -o mode=755 tmpfs \"$0/run\"");
        attach(&container).unwrap();
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
        assert_eq!(container.inside("/run/secrets/..").metadata().unwrap().uid(), 1000);
    }
}
