//! The hook without an engine: a process in a mount namespace of its own, and its state on the hook's standard input.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::container::Container;
use crate::engine::{Ended, Engine};
use crate::support::sandbox;

/// What an engine has made when it calls its hooks.
pub(crate) struct Created<'c> {
    container: &'c Container<'c>,
    process: Child,
}

/// A program that runs. Dropping it kills it.
pub(crate) struct Program(pub(crate) Child);

impl<'c> Created<'c> {
    pub(crate) fn new(container: &'c Container<'_>) -> Created<'c> {
        container.write(Engine::Runc, "true");
        let script = r#"mount --bind "$0" "$0" && echo && exec cat"#;
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation=private", "sh", "-c", script])
            .arg(container.rootfs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        Created { container, process }
    }

    /// Starts the hook behind these words of a command line.
    pub(crate) fn hook(&self, prefix: &[&str]) -> Program {
        let hook = env!("CARGO_BIN_EXE_oci-secrets-hook");
        let line: Vec<&str> = prefix.iter().copied().chain([hook]).collect();
        let mut child = Command::new(line[0])
            .args(&line[1..])
            .arg("--settings")
            .arg(self.container.settings_path())
            .env_clear()
            .env("PATH", sandbox::PATH)
            .current_dir(&self.container.directory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let state = json!({
            "ociVersion": "1.0.2",
            "id": self.container.name,
            "status": "creating",
            "pid": self.process.id(),
            "bundle": self.container.directory,
            "annotations": self.container.annotations,
        });
        child.stdin.take().unwrap().write_all(state.to_string().as_bytes()).unwrap();
        Program(child)
    }

    /// The mounts of the container's.
    pub(crate) fn mounts(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", self.process.id())).unwrap()
    }
}

impl Drop for Created<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Program {
    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        // One after the other: no pipe is filled by what the hook says.
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Ended { status: self.0.wait().unwrap(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
