//! What a process that will hold secrets does first.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, chdir, getrlimit, set_dumpable_behavior, setrlimit, umask};

use crate::errno::{SyscallError, failed};

/// The one variable that a hook's configuration gives it, so that its environment is not empty: runtimes that see none pass on
/// their own.
const EXPECTED_VARIABLE: &str = "PATH";

/// Leaves the environment, the working directory and every way to the process's memory behind.
///
/// The environment comes from whoever started the runtime, and libraries take proxies, certificates and credentials from it. If
/// there is any, the process begins anew without it: one more `execve`, which a hook that is configured as documented does not pay.
///
/// # Errors
/// If it cannot begin anew: going on with that environment would be to trust it.
pub fn harden() -> Result<(), SyscallError> {
    harden_but_keep(&[])
}

/// The same, with these variables kept: by them a service manager tells its services what they need.
///
/// # Errors
/// As [`harden`].
pub fn harden_but_keep(variables: &[&str]) -> Result<(), SyscallError> {
    let is_kept = |(name, _): &(OsString, OsString)| variables.iter().any(|variable| name == variable);
    if !std::env::vars_os().all(|variable| variable.0 == EXPECTED_VARIABLE || is_kept(&variable)) {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let kept = std::env::vars_os().filter(is_kept);
        let error = Command::new("/proc/self/exe").arg0(name).args(arguments).env_clear().envs(kept).exec();
        return Err(failed(r#"execve("/proc/self/exe")"#)(error));
    }
    hide_memory();
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Where a runtime starts a hook is not agreed on, and may be inside the image. No path of ours is relative.
    let _ = chdir("/");
    Ok(())
}

/// Forbids core dumps, and other processes of the same user to trace this one or read its memory.
pub fn hide_memory() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Keeps memory from being swapped out, where that is allowed without a limit that would later break an allocation.
pub fn lock_memory() {
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    if unlimited || is_root_of_the_host() {
        let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    }
}

/// Whether we are root, and root of the host: then the kernel has no limit on locked memory.
pub fn is_root_of_the_host() -> bool {
    rustix::process::geteuid().is_root() && is_initial_user_namespace()
}

/// Whether ids are those of the host, so that root is the host's root and every user has an id. Not so for what podman starts
/// without root.
pub fn is_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}
