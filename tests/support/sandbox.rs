//! A mount namespace for the tests and their containers: nothing in it outlives the tests.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::umask;

use super::program;

/// The directory for all files of the tests.
pub(crate) const DIRECTORY: &str = "/run/containers-test";

/// Programs of the tests and of the engines, last those that `tests/check` builds.
pub(crate) const PATH: &str = concat!(
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:",
    env!("CARGO_MANIFEST_DIR"),
    "/target/tools/bin",
);

/// The hook, where every user can run it.
pub(crate) const HOOK: &str = "/run/containers-test/oci-secrets-hook";

/// The same for the command.
pub(crate) const OCI_SECRETS: &str = "/run/containers-test/oci-secrets";

/// Directories of the host that the tests change only in this namespace.
const CHANGED: [&str; 2] = ["/etc", "/usr/share"];

/// The directory of the overlays' upper layers.
const LAYERS: &str = "/run/containers-test/layers";

/// The cgroup v2 hierarchy next to v1, which crun treats as an error.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// Busybox's name for each of its parts that the tests' scripts use.
const APPLETS: [&str; 14] =
    ["cat", "chmod", "grep", "id", "ls", "mkdir", "mv", "readlink", "rm", "sh", "sleep", "stat", "touch", "true"];

/// Limits for containers: podman's defaults exceed the limits of a container in which the tests may run.
const LIMITS: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";

/// Moves this process into a new mount namespace with an empty `/run` and `/dev/shm`, writable configuration, and the default umask.
///
/// The engines keep their state in `/run`, podman its locks in `/dev/shm`, and the socket of the system log is in `/run`.
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
    std::fs::create_dir_all(DIRECTORY)?;
    // The copies are owned by root, independent of the user who built them.
    std::fs::copy(program("oci-secrets-hook"), HOOK)?;
    std::fs::copy(program("oci-secrets"), OCI_SECRETS)?;
    // A separate filesystem, so that searches of these directories do not cross into it.
    std::fs::create_dir(LAYERS)?;
    mount("tmpfs", LAYERS, "tmpfs", flags, None)?;
    CHANGED.iter().try_for_each(|directory| lay_over(directory))?;
    std::fs::create_dir_all("/etc/containers/containers.conf.d")?;
    std::fs::write("/etc/containers/containers.conf.d/limits.conf", LIMITS)
}

/// Mounts an overlay over a directory, whose changes are in memory.
fn lay_over(directory: &str) -> io::Result<()> {
    let [upper, work] = ["upper", "work"].map(|part| format!("{LAYERS}/{part}{directory}"));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    let options = CString::new(format!("lowerdir={directory},upperdir={upper},workdir={work}"))?;
    Ok(mount("overlay", directory, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
}

/// The path of an installed program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.exists())
}

/// The name of the system, from os-release.
pub(crate) fn name() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("an unknown system", |name| name.trim_matches('"')).to_owned()
}

/// The version of the kernel: 6.12 for `6.12.117+deb13-amd64`.
pub(crate) fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether the kernel supports `noswap` for tmpfs.
pub(crate) fn kernel_has_noswap() -> bool {
    kernel() >= (6, 4)
}

/// Busybox, and the directories that engines mount on. No `/run`.
pub(crate) fn make_rootfs(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    std::fs::copy(find("busybox").unwrap(), rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}
