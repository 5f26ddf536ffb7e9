//! Hardening of a process that will hold secrets.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, chdir, getrlimit, set_dumpable_behavior, setrlimit, umask};

use crate::errno::{SyscallError, failed};

/// The one variable that the hook's configuration sets, so that its environment is not empty: for an empty one, runtimes pass on
/// their own.
const EXPECTED_VARIABLE: &str = "PATH";

/// Drops the environment and the working directory, and hides the process's memory.
///
/// The environment comes from the process that started the runtime, and libraries take proxies, certificates and credentials from
/// it. If it is not empty, the process executes itself again without it. A hook that is configured as documented does not pay for
/// that `execve`.
///
/// # Errors
/// The `execve` failed. Continuing with that environment would mean to trust it.
pub fn harden() -> Result<(), SyscallError> {
    harden_but_keep(&[])
}

/// The same, but keeps these variables, through which a service manager passes sockets and addresses.
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
    // The working directory of a hook is not specified, and may be inside the image. No path is relative.
    let _ = chdir("/");
    Ok(())
}

/// Forbids core dumps, and other processes of the same user to trace this one or read its memory.
pub fn hide_memory() {
    // Before Linux 6.4 the page size is read from /proc/self/auxv, which belongs to root once the process is not dumpable. rustix reads
    // all of the auxiliary vector at the first call.
    let _ = rustix::param::page_size();
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Locks memory, where no limit can make a later allocation fail.
pub fn lock_memory() {
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    if unlimited || is_root_of_the_host() {
        let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    }
}

/// Whether this process is root in the initial user namespace: the kernel then does not limit locked memory.
pub fn is_root_of_the_host() -> bool {
    rustix::process::geteuid().is_root() && is_initial_user_namespace()
}

/// Whether this is the initial user namespace, where every id is mapped. Rootless podman starts hooks in another one.
pub fn is_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}
