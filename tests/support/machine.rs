//! A machine for one test: a network and mounts that only its thread has, and the processes that the thread starts.
//!
//! There is loopback alone. The metadata server's address and name lead there, too, as they lead to a machine's host in Google's
//! cloud. Whoever looks for roots of trust in the system finds another one.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use tempfile::NamedTempFile;

use super::skip;

/// Where a stand-in can serve as this machine's metadata server.
pub(crate) const METADATA: &str = "169.254.169.254:80";

const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
const HOSTS: &str = "127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n";

/// Leaves the host's network and mounts. It takes root; without, the test is to be skipped.
#[must_use]
pub(crate) fn enter() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("a machine of its own takes root");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for arguments in ["link set lo up", "address add 169.254.169.254/32 dev lo"] {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
    }
    enter_mounts();
    put(HOSTS.as_bytes(), Path::new("/etc/hosts"));
    true
}

/// Leaves the host's mounts alone.
pub(crate) fn enter_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// Adds a certificate authority to the roots of trust of the system, which are as many as before but for this one.
pub(crate) fn trust(authority: &Path) {
    put(&[fs::read(ROOTS).unwrap(), fs::read(authority).unwrap()].concat(), Path::new(ROOTS));
}

/// Puts this content in the place of a file of the host.
fn put(content: &[u8], path: &Path) {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    fs::set_permissions(file.path(), fs::metadata(path).unwrap().permissions()).unwrap();
    // The mount keeps the file, its name can go.
    mount_bind(file.path(), path).unwrap();
}
