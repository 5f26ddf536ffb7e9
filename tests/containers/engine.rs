//! The engines, and containers that they run.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::container::Container;
use crate::host;
use crate::search::left;

/// The longest that an engine may take for anything, in seconds.
const TIMEOUT: &str = "60";

/// Who starts containers. Podman starts them through a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Engine {
    Runc,
    Crun,
    PodmanRunc,
    PodmanCrun,
}

impl Engine {
    pub(crate) const ALL: &[Engine] = &[Engine::Runc, Engine::Crun, Engine::PodmanRunc, Engine::PodmanCrun];
    /// Those that take a bundle with a spec of our own.
    pub(crate) const RUNTIMES: &[Engine] = &[Engine::Runc, Engine::Crun];
    pub(crate) const PODMAN: &[Engine] = &[Engine::PodmanRunc, Engine::PodmanCrun];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Runc => "runc",
            Engine::Crun => "crun",
            Engine::PodmanRunc => "podman/runc",
            Engine::PodmanCrun => "podman/crun",
        }
    }

    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Engine::Runc => &["busybox", "runc"],
            Engine::Crun => &["busybox", "crun"],
            Engine::PodmanRunc => &["busybox", "podman", "conmon", "runc"],
            Engine::PodmanCrun => &["busybox", "podman", "conmon", "crun"],
        }
    }

    /// Whether its runtime is crun, which keeps a hook's messages to itself.
    pub(crate) fn is_crun(self) -> bool {
        matches!(self, Engine::Crun | Engine::PodmanCrun)
    }

    /// The engine, ready for its verb.
    pub(crate) fn command(self, verb: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.env_clear().env("PATH", host::PATH).env("HOME", host::DIRECTORY).current_dir("/");
        command.args(["--foreground", TIMEOUT]);
        let root = Path::new(host::DIRECTORY).join("engines").join(self.name());
        match self {
            Engine::Runc => command.arg("runc"),
            // It needs no cgroup for what is shown here, and on some hosts it cannot have one.
            Engine::Crun => command.args(["crun", "--cgroup-manager=disabled"]),
            Engine::PodmanRunc => command.args(["podman", "--runtime", "runc"]),
            Engine::PodmanCrun => command.args(["podman", "--runtime", "crun"]),
        };
        command.arg("--root").arg(&root);
        if self.is_podman() {
            command.arg("--runroot").arg(root.with_extension("run"));
            command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
        }
        command.args(verb);
        command
    }

    pub(crate) fn is_podman(self) -> bool {
        Engine::PODMAN.contains(&self)
    }

    /// The command that runs a container, attached unless podman is told otherwise.
    fn run(self, container: &Container<'_>, script: &str, attached: bool) -> Command {
        if !self.is_podman() {
            let mut command = self.command(&["run", "--bundle"]);
            command.arg(&container.directory).arg(&container.name);
            return if container.has_own_mounts() { command } else { in_mount_namespace(command) };
        }
        let mut command = self.command(&["--hooks-dir", container.hooks().to_str().unwrap(), "run"]);
        command.arg(if attached { "--interactive" } else { "--detach" });
        command.args(["--name", &container.name, "--network=none", "--log-driver=none"]);
        // Its own limits are more than a container, which the tests may themselves be in, can allow.
        command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]);
        if self.is_crun() {
            command.arg("--cgroups=disabled");
        }
        let (uid, gid) = container.user;
        command.args(["--user", &format!("{uid}:{gid}")]);
        for (key, value) in &container.annotations {
            command.args(["--annotation", &format!("{key}={value}")]);
        }
        command.args(container.twists.iter().flat_map(|twist| twist.podman_arguments()));
        command.arg("--rootfs").arg(container.rootfs()).args(["sh", "-c", script]);
        command
    }

    /// Runs a verb to its end and gives back what it prints.
    pub(crate) fn ask(self, verb: &[&str]) -> String {
        let output = self.command(verb).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{verb:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// The command in a mount namespace of its own, whose mounts at `/run/secrets` are printed when it has ended.
fn in_mount_namespace(command: Command) -> Command {
    let script = r#""$@"; code=$?; grep /run/secrets /proc/self/mountinfo; exit $code"#;
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]);
    outer.arg(command.get_program()).args(command.get_args());
    outer.env_clear().env("PATH", host::PATH);
    outer
}

/// A container in an engine. Dropping it ends and removes it.
pub(crate) struct Running<'c> {
    engine: Engine,
    container: &'c Container<'c>,
    /// The engine's command, attached to the container.
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
    /// What it printed before it was ready.
    pub(crate) printed: String,
}

impl<'c> Running<'c> {
    pub(crate) fn start(engine: Engine, container: &'c Container<'_>, script: &str) -> Running<'c> {
        Running::spawn(engine, container, engine.run(container, script, true))
    }

    /// Starts a container that podman's command does not stay attached to.
    pub(crate) fn detached(engine: Engine, container: &'c Container<'_>, script: &str) -> Running<'c> {
        let mut running = Running::spawn(engine, container, engine.run(container, script, false));
        let status = running.child.wait().unwrap();
        assert!(status.success(), "{status}");
        running
    }

    fn spawn(engine: Engine, container: &'c Container<'_>, mut command: Command) -> Running<'c> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        Running { engine, container, child, stdout, stderr: Some(stderr), printed: String::new() }
    }

    /// Waits for the line `ready`.
    pub(crate) fn wait_until_ready(&mut self) {
        loop {
            let mut line = String::new();
            match self.stdout.as_mut().unwrap().read_line(&mut line).unwrap() {
                0 => panic!("it ended before it was ready: {} {:?}", self.printed, self.stderr.take().unwrap().join()),
                _ if line == "ready\n" => return,
                _ => self.printed.push_str(&line),
            }
        }
    }

    /// The process id of the container's first process.
    pub(crate) fn pid(&self) -> u32 {
        let name = &self.container.name;
        if self.engine.is_podman() {
            return self.engine.ask(&["inspect", "--format", "{{.State.Pid}}", name]).parse().unwrap();
        }
        let state: Value = serde_json::from_str(&self.engine.ask(&["state", name])).unwrap();
        state["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// Closes the container's standard input and waits for its end, after which nothing of it may be left, started or not.
    pub(crate) fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let mut stdout = Vec::new();
        self.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(left(&self.container.name), Vec::<String>::new(), "{stderr}");
        Ended { status, stdout, stderr }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let removal: &[&str] = match self.engine.is_podman() {
            true => &["rm", "--force", "--ignore", "--time=0", &self.container.name],
            false => &["delete", "--force", &self.container.name],
        };
        let _ = self.engine.command(removal).stdin(Stdio::null()).output();
    }
}

/// What a container, or a hook, has left: its output.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it printed, if all went well.
    pub(crate) fn text(&self) -> &str {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        std::str::from_utf8(&self.stdout).unwrap()
    }
}
