//! A container as a runtime has created it when it calls the hook: a process in its own mount namespace, and a bundle.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The container's id.
pub(crate) const ID: &str = "4f2a9c1b77de0011";

const SPEC: &str = r#"{"ociVersion":"1.0.2","process":{"user":{"uid":1000,"gid":1000}},"root":{"path":"rootfs"}}"#;

/// A container that is being created; it ends when this is dropped.
pub(crate) struct Container {
    process: Child,
    bundle: TempDir,
}

impl Container {
    /// Creates the bundle and the namespace, in which the root filesystem is a mount.
    pub(crate) fn create() -> Container {
        // It waits from the start, as the process of a runtime does: a program that is loaded now would take time of what is measured.
        Container::with(Container::bundle(), "echo; read end")
    }

    fn bundle() -> TempDir {
        let bundle = tempfile::Builder::new().prefix("bundle").tempdir().unwrap();
        fs::create_dir(bundle.path().join("rootfs")).unwrap();
        fs::write(bundle.path().join("config.json"), SPEC).unwrap();
        bundle
    }

    fn with(bundle: TempDir, script: &str) -> Container {
        // A shell cannot trap a signal that is ignored where it starts, as nohup ignores SIGHUP.
        let mut process = Command::new("env")
            .args(["--default-signal", "unshare", "-m", "--propagation", "private", "sh", "-c"])
            .arg(format!("mount --bind rootfs rootfs; {script}"))
            .current_dir(bundle.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Container { process, bundle }
    }

    /// The same, with a process that counts a signal.
    pub(crate) fn trapping(signal: &str) -> Container {
        let trap = format!("trap 'echo >> trapped' {signal}; echo; while sleep 0.02; do :; done");
        Container::with(Container::bundle(), &trap)
    }

    /// The same, with a process that waits for [`Container::run`], and then becomes a command.
    pub(crate) fn waiting_to_run(command: &str) -> Container {
        Container::with(Container::bundle(), &format!("echo; read go; exec {command} >printed"))
    }

    /// Lets its process become the command.
    pub(crate) fn run(&self) {
        self.process.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
    }

    /// The lines that the command has printed.
    pub(crate) fn printed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.bundle.path().join("printed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often it got the signal.
    pub(crate) fn trapped(&self) -> usize {
        fs::read_to_string(self.bundle.path().join("trapped")).unwrap_or_default().lines().count()
    }

    /// Its first process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its root filesystem on the host.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle.path().join("rootfs")
    }

    /// The state for the hook's standard input.
    pub(crate) fn state(&self, annotations: impl IntoIterator<Item = (String, String)>) -> Vec<u8> {
        let annotations: Map<String, Value> = annotations.into_iter().map(|(key, value)| (key, value.into())).collect();
        let state = json!({
            "ociVersion": "1.0.2",
            "id": ID,
            "status": "creating",
            "pid": self.process.id(),
            "bundle": self.bundle.path(),
            "annotations": annotations,
        });
        state.to_string().into_bytes()
    }

    /// A file below `/run/secrets` as the container's processes see it.
    pub(crate) fn secret(&self, file: &str) -> Vec<u8> {
        let root = PathBuf::from(format!("/proc/{}/cwd", self.process.id()));
        fs::read(root.join("rootfs/run/secrets").join(file)).unwrap()
    }

    /// Whether secrets were delivered.
    pub(crate) fn has_secrets(&self) -> bool {
        let root = PathBuf::from(format!("/proc/{}/cwd", self.process.id()));
        fs::read_dir(root.join("rootfs/run/secrets")).is_ok_and(|mut files| files.next().is_some())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // With the processes that it has started.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}
