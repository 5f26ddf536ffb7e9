//! Podman, as root and without, which finds the hook in hooks.d.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use super::{Driver, answer, program, root};
use crate::container::Container;
use crate::user;

pub(super) static OVER_RUNC: Podman =
    Podman { programs: &["busybox", "podman", "conmon", "runc"], runtime: "runc", is_rootless: false };
pub(super) static OVER_CRUN: Podman =
    Podman { programs: &["busybox", "podman", "conmon", "crun"], runtime: "crun", is_rootless: false };
pub(super) static ROOTLESS_OVER_RUNC: Podman =
    Podman { programs: &["busybox", "podman", "conmon", "newuidmap", "runc"], runtime: "runc", is_rootless: true };
pub(super) static ROOTLESS_OVER_CRUN: Podman =
    Podman { programs: &["busybox", "podman", "conmon", "newuidmap", "crun"], runtime: "crun", is_rootless: true };

pub(super) struct Podman {
    programs: &'static [&'static str],
    runtime: &'static str,
    is_rootless: bool,
}

impl Podman {
    fn start(&self, container: &Container<'_>, script: &str, attached: bool) -> Command {
        let mut command = self.command(&["run"]);
        command.args(container.hooks.iter().flat_map(|hooks| [Path::new("--hooks-dir"), hooks]));
        command.arg(if attached { "--interactive" } else { "--detach" });
        command.args(["--name", &container.name, "--network=none", "--log-driver=none"]);
        if self.runtime == "crun" {
            command.arg("--cgroups=disabled");
        }
        let (uid, gid) = container.user;
        command.args(["--user", &format!("{uid}:{gid}")]);
        for (key, value) in &container.annotations {
            command.args(["--annotation", &annotation(key, value)]);
        }
        command.args(container.twists.iter().flat_map(|twist| twist.podman_arguments(self.is_rootless)));
        match &container.image {
            Some(image) => command.arg(image),
            None => command.arg("--rootfs").arg(container.rootfs()),
        };
        command.args(["sh", "-c", script]);
        command
    }
}

impl Driver for Podman {
    fn programs(&self) -> &'static [&'static str] {
        self.programs
    }

    fn command(&self, verb: &[&str]) -> Command {
        let (mut command, root) = match self.is_rootless {
            true => (user::program("podman"), user::home().join(self.runtime)),
            false => (program("podman"), root("podman").join(self.runtime)),
        };
        command.args(["--runtime", self.runtime]).arg("--root").arg(&root);
        command.arg("--runroot").arg(root.with_extension("run"));
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]).args(verb);
        command
    }

    fn run(&self, container: &Container<'_>, script: &str) -> Command {
        self.start(container, script, true)
    }

    fn detach(&self, container: &Container<'_>, script: &str) -> Command {
        self.start(container, script, false)
    }

    fn pid(&self, name: &str) -> u32 {
        answer(self.command(&["inspect", "--format", "{{.State.Pid}}", name])).parse().unwrap()
    }

    fn remove(&self, name: &str) -> Command {
        self.command(&["rm", "--force", "--ignore", "--time=0", name])
    }
}

/// An annotation for podman's command line. podman 4 reads it as a line of CSV: it would split it at commas, and end it at a line break.
fn annotation(key: &str, value: &str) -> String {
    static IS_CSV: LazyLock<bool> = LazyLock::new(|| {
        let version = Command::new("podman").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&version).contains("version 4.")
    });
    match value.contains([',', '"', '\n']) && *IS_CSV {
        true => format!("\"{key}={}\"", value.replace('"', "\"\"")),
        false => format!("{key}={value}"),
    }
}
