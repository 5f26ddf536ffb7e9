//! A network namespace and a mount namespace for the thread of one test and its child processes.
//!
//! The network has only loopback. The address and the name of the metadata server lead there, too. The CA certificates of the system
//! are those of the host, and those that the test adds.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use tempfile::NamedTempFile;

use super::skip;

/// The address of the metadata server.
pub(crate) const METADATA: &str = "169.254.169.254:80";

/// The addresses of the agents of ECS and EKS.
pub(crate) const AGENTS: [&str; 2] = ["169.254.170.2:80", "169.254.170.23:80"];

const HOSTS: &str = "127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n";
const ROOTS_PATH: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The namespaces that this thread has entered. It cannot leave them.
pub(crate) struct Machine(());

impl Machine {
    /// Moves this thread into new namespaces. Without root it returns `None`, and the test must be skipped.
    pub(crate) fn enter() -> Option<Machine> {
        if !rustix::process::geteuid().is_root() {
            skip("new namespaces require root");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        for address in [METADATA, AGENTS[0], AGENTS[1]] {
            let arguments = format!("address add {}/32 dev lo", address.trim_end_matches(":80"));
            assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        replace("/etc/hosts", HOSTS.as_bytes());
        replace(ROOTS_PATH, &fs::read(ROOTS_PATH).unwrap());
        Some(Machine(()))
    }

    /// Adds a name for a loopback address to `/etc/hosts`.
    pub(crate) fn name(&self, host: &str, address: &str) {
        let mut hosts = OpenOptions::new().append(true).open("/etc/hosts").unwrap();
        writeln!(hosts, "{address} {host}").unwrap();
    }

    /// Replaces the content of a file of the host in this namespace.
    pub(crate) fn replace(&self, path: &str, content: &str) {
        replace(path, content.as_bytes());
    }

    /// Adds a CA certificate to those of the system.
    pub(crate) fn trust(&self, authority: &Path) {
        let mut roots = OpenOptions::new().append(true).open(ROOTS_PATH).unwrap();
        roots.write_all(&fs::read(authority).unwrap()).unwrap();
    }
}

/// Mounts a file with this content over a file of the host.
fn replace(path: &str, content: &[u8]) {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    fs::set_permissions(file.path(), fs::metadata(path).unwrap().permissions()).unwrap();
    // The mount keeps the file, so its name can be removed.
    mount_bind(file.path(), path).unwrap();
}
