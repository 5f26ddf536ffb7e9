//! The place where the containers live: a mount namespace in which nothing outlasts the tests.

use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::mount::{
    FsOpenFlags, MountFlags, MountPropagationFlags, UnmountFlags, fsconfig_set_flag, fsopen, mount, mount_change,
    unmount,
};
use rustix::process::umask;

/// Where everything that the tests make is kept.
pub(crate) const DIRECTORY: &str = "/run/containers-test";

/// Programs of the tests and of the engines, last those that `tests/check` builds.
pub(crate) const PATH: &str = concat!(
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:",
    env!("CARGO_MANIFEST_DIR"),
    "/target/tools/bin",
);

/// The cgroup v2 hierarchy beside v1, which crun takes for a mistake.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// Moves this process into a mount namespace of its own, with a `/run` and a `/dev/shm` of its own, and the usual umask.
///
/// The engines keep their state there and find the system log there, and podman its locks.
pub(crate) fn enter() -> io::Result<()> {
    umask(Mode::WGRP | Mode::WOTH);
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/run", "tmpfs", flags, Some(c"mode=755"))?;
    mount("tmpfs", "/dev/shm", "tmpfs", flags, Some(c"mode=1777"))?;
    if Path::new(HYBRID).is_dir() {
        unmount(HYBRID, UnmountFlags::DETACH)?;
    }
    std::fs::create_dir(DIRECTORY)
}

/// Where a program is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.exists())
}

/// The system's own name for itself.
pub(crate) fn name() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("an unknown system", |name| name.trim_matches('"')).to_owned()
}

/// Whether the kernel can keep a tmpfs out of swap.
pub(crate) fn kernel_has_noswap() -> bool {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_flag(context, "noswap").is_ok()
}
