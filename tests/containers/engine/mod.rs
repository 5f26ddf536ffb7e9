//! The engines, one file for each command line that they have, and containers that they run.

pub(crate) mod containerd;
mod daemon;
pub(crate) mod docker;
mod podman;
mod runtime;

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use crate::container::Container;
use crate::support::sandbox;
use crate::support::search::left;
use crate::user;

/// The longest that an engine may take for anything, in seconds.
const TIMEOUT: &str = "60";

/// The same, if a container gets as many updates as the environment asks for.
const TIMEOUT_OF_MANY_UPDATES: &str = "3600";

/// Who starts containers. Podman starts them through a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Engine {
    Runc,
    Crun,
    Youki,
    /// gVisor, whose containers are refused.
    Runsc,
    PodmanRunc,
    PodmanCrun,
    RootlessRunc,
    RootlessCrun,
    /// `ctr`
    Containerd,
    /// Pods of containerd's.
    Cri,
    Docker,
}

impl Engine {
    pub(crate) const ALL: &[Engine] = &[
        Engine::Runc,
        Engine::Crun,
        Engine::Youki,
        Engine::Runsc,
        Engine::PodmanRunc,
        Engine::PodmanCrun,
        Engine::RootlessRunc,
        Engine::RootlessCrun,
        Engine::Containerd,
        Engine::Cri,
        Engine::Docker,
    ];
    /// Those that take a bundle with a spec of our own.
    pub(crate) const RUNTIMES: &[Engine] = &[Engine::Runc, Engine::Crun, Engine::Youki];
    /// Those that make a tmpfs of the spec's read-only after their hooks, and the one that mounts it so.
    pub(crate) const READ_ONLY_LATER: &[Engine] = &[
        Engine::Runc,
        Engine::Crun,
        Engine::PodmanRunc,
        Engine::PodmanCrun,
        Engine::RootlessRunc,
        Engine::RootlessCrun,
        Engine::Containerd,
        Engine::Docker,
    ];
    pub(crate) const READ_ONLY_AT_ONCE: &[Engine] = &[Engine::Youki];
    /// Podman as root runs it.
    pub(crate) const ROOTFUL: &[Engine] = &[Engine::PodmanRunc, Engine::PodmanCrun];
    pub(crate) const PODMAN: &[Engine] =
        &[Engine::PodmanRunc, Engine::PodmanCrun, Engine::RootlessRunc, Engine::RootlessCrun];
    /// Podman as a user without root runs it.
    pub(crate) const ROOTLESS: &[Engine] = &[Engine::RootlessRunc, Engine::RootlessCrun];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Runc => "runc",
            Engine::Crun => "crun",
            Engine::Youki => "youki",
            Engine::Runsc => "runsc",
            Engine::PodmanRunc => "podman/runc",
            Engine::PodmanCrun => "podman/crun",
            Engine::RootlessRunc => "rootless/runc",
            Engine::RootlessCrun => "rootless/crun",
            Engine::Containerd => "containerd",
            Engine::Cri => "cri",
            Engine::Docker => "docker",
        }
    }

    fn driver(self) -> &'static dyn Driver {
        match self {
            Engine::Runc => &runtime::RUNC,
            Engine::Crun => &runtime::CRUN,
            Engine::Youki => &runtime::YOUKI,
            Engine::Runsc => &runtime::RUNSC,
            Engine::PodmanRunc => &podman::OVER_RUNC,
            Engine::PodmanCrun => &podman::OVER_CRUN,
            Engine::RootlessRunc => &podman::ROOTLESS_OVER_RUNC,
            Engine::RootlessCrun => &podman::ROOTLESS_OVER_CRUN,
            Engine::Containerd => &containerd::CTR,
            Engine::Cri => &containerd::CRI,
            Engine::Docker => &docker::DOCKER,
        }
    }

    /// What must be installed.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        self.driver().programs()
    }

    /// Whether its runtime is crun, which keeps a hook's messages to itself.
    pub(crate) fn is_crun(self) -> bool {
        matches!(self, Engine::Crun | Engine::PodmanCrun | Engine::RootlessCrun)
    }

    pub(crate) fn is_podman(self) -> bool {
        Engine::PODMAN.contains(&self)
    }

    /// Whether the user who runs it is not root.
    pub(crate) fn is_rootless(self) -> bool {
        Engine::ROOTLESS.contains(&self)
    }

    /// Whose credentials its hook can use.
    pub(crate) fn credentials(self) -> &'static Path {
        if self.is_rootless() { user::home() } else { Path::new(sandbox::DIRECTORY) }
    }

    /// Those that run single containers with their secrets; pods have promises of their own.
    pub(crate) fn single() -> &'static [Engine] {
        Engine::those(|engine| !matches!(engine, Engine::Cri | Engine::Runsc))
    }

    /// Those whose containers have the very root filesystem and spec that the tests make. Docker has copies, and user namespaces
    /// and masked paths for all containers or none.
    pub(crate) fn exact() -> &'static [Engine] {
        Engine::those(|engine| !matches!(engine, Engine::Cri | Engine::Docker | Engine::Runsc))
    }

    /// Those that pass on any annotation.
    pub(crate) fn annotating() -> &'static [Engine] {
        if docker::passes_annotations() { Engine::single() } else { Engine::exact() }
    }

    fn those(are_meant: impl Fn(Engine) -> bool) -> &'static [Engine] {
        Engine::ALL.iter().copied().filter(|engine| are_meant(*engine)).collect::<Vec<_>>().leak()
    }

    /// Whether it gives containers ids of its own next to their names.
    pub(crate) fn has_own_ids(self) -> bool {
        self.is_podman() || self == Engine::Docker
    }

    /// The engine, ready for its verb.
    pub(crate) fn command(self, verb: &[&str]) -> Command {
        self.driver().command(verb)
    }

    /// The command that runs a container and stays attached to it.
    pub(crate) fn run(self, container: &Container<'_>, script: &str) -> Command {
        self.driver().run(container, script)
    }

    /// The command that ends and removes a container, if there is one.
    pub(crate) fn remove(self, name: &str) -> Command {
        self.driver().remove(name)
    }

    /// Runs a verb to its end and gives back what it prints.
    pub(crate) fn ask(self, verb: &[&str]) -> String {
        answer(self.command(verb))
    }
}

/// The command line of an engine.
trait Driver {
    /// What must be installed.
    fn programs(&self) -> &'static [&'static str];

    /// The engine, ready for its verb.
    fn command(&self, verb: &[&str]) -> Command;

    /// Runs a container and stays attached to it until it ends.
    fn run(&self, container: &Container<'_>, script: &str) -> Command;

    /// Starts a container and does not wait for it.
    fn detach(&self, container: &Container<'_>, script: &str) -> Command {
        panic!("no engine for {} {script}", container.name)
    }

    /// The process id of a container's first process.
    fn pid(&self, name: &str) -> u32;

    /// Ends and removes a container, if there is one.
    fn remove(&self, name: &str) -> Command;
}

/// A program with a time limit, in a small environment.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.env_clear().env("PATH", sandbox::PATH).env("HOME", sandbox::DIRECTORY).current_dir("/");
    let timeout = if env::var_os("OCI_SECRETS_TEST_SWAPS").is_some() { TIMEOUT_OF_MANY_UPDATES } else { TIMEOUT };
    command.args(["--foreground", timeout, name]);
    command
}

/// Where an engine keeps its state.
fn root(engine: &str) -> PathBuf {
    Path::new(sandbox::DIRECTORY).join("engines").join(engine)
}

/// What a command prints, which must end well.
fn answer(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
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
        Running::spawn(engine, container, engine.driver().run(container, script))
    }

    /// Starts a container that the engine's command does not stay attached to.
    pub(crate) fn detached(engine: Engine, container: &'c Container<'_>, script: &str) -> Running<'c> {
        let mut running = Running::spawn(engine, container, engine.driver().detach(container, script));
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
        self.engine.driver().pid(&self.container.name)
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
        let _ = self.engine.driver().remove(&self.container.name).stdin(Stdio::null()).output();
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
