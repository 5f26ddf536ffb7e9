//! Something like a container: a process in its own mount namespace, and a root filesystem that is mounted there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;
use tempfile::TempDir;

use super::{AttachError, Carried, DeliveryId, Frozen, Placeholders, Tmpfs, TmpfsError, TmpfsOptions};
use crate::container::{Hooks, Owner, Process, Spec};
use crate::secret::Secret;
use crate::settings::Noswap;

/// Whether the kernel will let a test mount anything; says so if not.
pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

/// A frozen tmpfs with one file, `db`.
pub(super) fn frozen() -> Frozen {
    frozen_for(Placeholders::default()).unwrap()
}

/// The same, with placeholders for carried mounts.
pub(super) fn frozen_for(placeholders: Placeholders) -> Result<Frozen, TmpfsError> {
    frozen_with("hunter2", placeholders)
}

/// The same, with this content.
pub(super) fn frozen_with(content: &str, placeholders: Placeholders) -> Result<Frozen, TmpfsError> {
    let options = TmpfsOptions { files: 1, bytes: 16, label: None, root: None, noswap: Noswap::Prefer };
    let tmpfs = Tmpfs::create(&options, placeholders)?;
    let owner = Owner { uid: 1000, gid: 1001 };
    tmpfs.write(&"db".parse().unwrap(), &Secret::new(content.as_bytes().to_vec()), owner)?;
    tmpfs.freeze()
}

/// The same, which must succeed. Returns the numbers of the delivery.
pub(super) fn delivered(container: &Container) -> DeliveryId {
    let carried = Carried::find(&container.process(), &container.rootfs()).unwrap();
    let frozen = frozen_for(carried.placeholders()).unwrap();
    let id = frozen.id().unwrap();
    frozen.attach(&carried, &container.process(), &container.spec()).unwrap();
    id
}

/// Attaches a frozen tmpfs with one file, `db`, to a container.
pub(super) fn attach(container: &Container) -> Result<(), AttachError> {
    let carried = Carried::find(&container.process(), &container.rootfs())?;
    frozen_for(carried.placeholders()).unwrap().attach(&carried, &container.process(), &container.spec()).map(drop)
}

/// An image without any file.
pub(super) const NOTHING: fn(&Path) = |_| {};

/// A process in its own mount namespace, ended with the test.
pub(super) struct Container {
    child: Child,
    directory: TempDir,
}

impl Container {
    /// Starts a process whose root filesystem holds what `image` puts there; `script` then runs in its mount namespace, with
    /// the root filesystem as its working directory, already mounted onto itself.
    pub(super) fn start(image: impl FnOnce(&Path), script: &str) -> Container {
        Container::unshare(
            &["--propagation", "private"],
            image,
            &format!("mount --bind . . && cd \"$PWD\" && {script}"),
        )
    }

    /// The same, with options for `unshare` and nothing mounted.
    pub(super) fn unshare(options: &[&str], image: impl FnOnce(&Path), script: &str) -> Container {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        std::fs::create_dir(&rootfs).unwrap();
        image(&rootfs);
        let mut child = Command::new("unshare")
            .arg("--mount")
            .args(options)
            .args(["sh", "-ec", &format!("{script}; echo ready; exec sleep 60")])
            .current_dir(&rootfs)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Container { child, directory }
    }

    pub(super) fn process(&self) -> Process {
        Process::open(Pid::from_child(&self.child)).unwrap()
    }

    /// The root filesystem on the host.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// A spec with a root filesystem and nothing else.
    pub(super) fn spec(&self) -> Spec {
        Spec {
            joins_mounts: false,
            rootfs: self.rootfs(),
            user: None,
            mounts: Vec::new(),
            mount_label: None,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            hooks: Hooks::default(),
        }
    }

    /// A path of the container, as its process sees it.
    pub(super) fn inside(&self, path: &str) -> PathBuf {
        let rootfs = self.rootfs();
        format!("/proc/{}/root{}{path}", self.child.id(), rootfs.display()).into()
    }

    /// A file of the process's below `/proc`.
    pub(super) fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.id()).into()
    }

    /// Runs a script as root of the process's namespaces, in the root filesystem.
    pub(super) fn run(&self, script: &str) {
        let target = self.child.id().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &target, "--all", "sh", "-ec", &format!("cd \"$0\"; {script}")]);
        assert!(nsenter.arg(self.rootfs()).status().unwrap().success(), "{script}");
    }

    /// Gives the process's new user namespace ten ids, from 1000 on.
    pub(super) fn map_ids(&self) {
        for map in ["uid_map", "gid_map"] {
            std::fs::write(self.proc(map), "0 1000 10").unwrap();
        }
    }

    pub(super) fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
