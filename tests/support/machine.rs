//! A machine for one test: a network and mounts that only its thread has, and the processes that the thread starts.
//!
//! There is loopback alone. The metadata server's address and name lead there, too, as they lead to a machine's host in Google's
//! cloud. Whoever looks for roots of trust in the system finds those of the host, and those that are added here.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use tempfile::NamedTempFile;

use super::skip;

/// Where a stand-in can serve as this machine's metadata server.
pub(crate) const METADATA: &str = "169.254.169.254:80";

/// Where a stand-in can serve as the agent of ECS, and of EKS.
pub(crate) const AGENTS: [&str; 2] = ["169.254.170.2:80", "169.254.170.23:80"];

const HOSTS: &str = "127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n";
const ROOTS_PATH: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The machine that this thread has entered, and never leaves.
pub(crate) struct Machine(());

impl Machine {
    /// Leaves the host's network and mounts. It takes root; without, there is none, and the test is to be skipped.
    pub(crate) fn enter() -> Option<Machine> {
        if !rustix::process::geteuid().is_root() {
            skip("a machine of its own takes root");
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

    /// Lets a name lead to an address of loopback.
    pub(crate) fn name(&self, host: &str, address: &str) {
        let mut hosts = OpenOptions::new().append(true).open("/etc/hosts").unwrap();
        writeln!(hosts, "{address} {host}").unwrap();
    }

    /// Lets a file of the host have this content.
    pub(crate) fn replace(&self, path: &str, content: &str) {
        replace(path, content.as_bytes());
    }

    /// Adds a certificate authority to the system's roots of trust.
    pub(crate) fn trust(&self, authority: &Path) {
        let mut roots = OpenOptions::new().append(true).open(ROOTS_PATH).unwrap();
        roots.write_all(&fs::read(authority).unwrap()).unwrap();
    }
}

/// Puts this content in the place of a file of the host.
fn replace(path: &str, content: &[u8]) {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    fs::set_permissions(file.path(), fs::metadata(path).unwrap().permissions()).unwrap();
    // The mount keeps the file, its name can go.
    mount_bind(file.path(), path).unwrap();
}
