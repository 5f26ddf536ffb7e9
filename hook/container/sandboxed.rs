//! Runtimes that run a container on a kernel of its own.
//!
//! | runtime | the process in the state | known by |
//! |---|---|---|
//! | gVisor | the sandbox: its kernel, in a mount namespace with an empty root | its first argument, `runsc-sandbox`, or its program |
//! | Kata Containers | a thread of the shim; the container is in a virtual machine | its program |
//!
//! A mount of the hook would reach neither. If a version is not recognized, the container's root filesystem is not a mount point where the
//! hook looks for it, and the start is refused for that reason.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Pid;

use super::Procfs;

/// What the names of their programs begin with.
const PROGRAMS: [(&[u8], &str); 3] =
    [(b"runsc", "gVisor"), (b"containerd-shim-kata", "Kata Containers"), (b"kata-runtime", "Kata Containers")];

/// The sandboxed runtime to which a process or thread belongs, if it is one.
pub(super) fn runtime(procfs: &Procfs, pid: Pid) -> Option<&'static str> {
    let of = |name: &str| format!("{}/{name}", pid.as_raw_nonzero());
    let command_line = procfs.read(&of("cmdline")).unwrap_or_default();
    let program = procfs.link(&of("exe")).unwrap_or_default();
    let argument = command_line.split(|byte| *byte == 0).next().map(OsStr::from_bytes);
    named([argument.map(Path::new), Some(program.as_path())].into_iter().flatten())
}

/// The sandboxed runtime of which one of these paths is a program.
fn named<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Option<&'static str> {
    paths.into_iter().filter_map(Path::file_name).find_map(|name| {
        let known = PROGRAMS.iter().find(|(prefix, _)| name.as_bytes().starts_with(prefix));
        known.map(|(_, runtime)| *runtime)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_sandboxed_runtimes_by_their_programs() {
        let named = |paths: [&str; 2]| named(paths.map(Path::new));
        for (paths, runtime) in [
            (["runsc-sandbox", ""], Some("gVisor")),
            (["/proc/self/exe", "/usr/local/bin/runsc"], Some("gVisor")),
            (["/proc/self/exe", "/usr/bin/runsc (deleted)"], Some("gVisor")),
            (["/opt/kata/bin/containerd-shim-kata-v2", "/"], Some("Kata Containers")),
            (["", "/usr/bin/kata-runtime"], Some("Kata Containers")),
            (["runc", "/usr/sbin/runc"], None),
            (["/usr/bin/crun", "/memfd:crun"], None),
            (["/srv/runsc/app", "/"], None),
        ] {
            assert_eq!(named(paths), runtime, "{paths:?}");
        }
    }
}
