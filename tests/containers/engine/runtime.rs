//! Runtimes that take a bundle, and so a spec of our own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Driver, answer, program, root};
use crate::container::Container;
use crate::spec::Twist;
use crate::support::sandbox;

pub(super) static RUNC: Runtime = Runtime { name: "runc", programs: &["busybox", "runc"], prefix: &[], options: &[] };

/// It needs no cgroup for what is shown here, and on some hosts it cannot have one.
pub(super) static CRUN: Runtime =
    Runtime { name: "crun", programs: &["busybox", "crun"], prefix: &[], options: &["--cgroup-manager=disabled"] };

/// Its `run` waits forever for a container that has ended before it begins to wait (seen in 0.7.0), unless the signal is kept for it.
/// A development build logs everything, unless it is configured to be quiet.
pub(super) static YOUKI: Runtime = Runtime {
    name: "youki",
    programs: &["busybox", "youki"],
    prefix: &["env", "--block-signal=CHLD"],
    options: &["--log-level=error"],
};

/// It has no network here.
pub(super) static RUNSC: Runtime = Runtime {
    name: "runsc",
    programs: &["busybox", "runsc"],
    prefix: &[],
    options: &["--network=none", "--ignore-cgroups"],
};

pub(super) struct Runtime {
    name: &'static str,
    programs: &'static [&'static str],
    /// Words before its own.
    prefix: &'static [&'static str],
    /// Before every verb.
    options: &'static [&'static str],
}

impl Driver for Runtime {
    fn programs(&self) -> &'static [&'static str] {
        self.programs
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut words = self.prefix.iter().copied().chain([self.name]);
        let mut command = program(words.next().unwrap());
        command.args(words).args(self.options).arg("--root").arg(root(self.name)).args(verb);
        command
    }

    fn run(&self, container: &Container<'_>, _script: &str) -> Command {
        let mut command = self.command(&["run", "--bundle"]);
        command.arg(&container.directory);
        if container.twists.iter().any(|twist| matches!(twist, Twist::NoPivot)) {
            command.arg("--no-pivot");
        }
        command.arg(&container.name);
        if container.has_own_mounts() { command } else { in_mount_namespace(&command) }
    }

    fn pid(&self, name: &str) -> u32 {
        let state: Value = serde_json::from_str(&answer(self.command(&["state", name]))).unwrap();
        state["pid"].as_u64().unwrap().try_into().unwrap()
    }

    fn remove(&self, name: &str) -> Command {
        self.command(&["delete", "--force", name])
    }
}

/// The command in a mount namespace of its own, whose mounts at `/run/secrets` are printed when it has ended.
fn in_mount_namespace(command: &Command) -> Command {
    let script = r#""$@"; code=$?; grep /run/secrets /proc/self/mountinfo; exit $code"#;
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]);
    outer.arg(command.get_program()).args(command.get_args());
    outer.env_clear().env("PATH", sandbox::PATH).current_dir(Path::new("/"));
    outer
}
