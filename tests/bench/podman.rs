//! `podman run` with one secret of podman's own, next to one of ours.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::engine::{entry, make_rootfs, unify_cgroups};
use crate::measure::{median, row, row_added, timed, times};
use crate::support::broker::{self, Broker};
use crate::support::machine::Machine;
use crate::vault::{Identity, SECRET, Vault};

/// The name of podman's secret.
const NAME: &str = "bench";

const ROUNDS: usize = 60;

/// A store of podman's, and a root filesystem with busybox.
struct Podman {
    directory: TempDir,
}

/// A container that runs `true`: without a secret, with `--secret`, with the hook, and with the hook through the broker.
pub(crate) fn one_secret(machine: &Machine) {
    unify_cgroups();
    let vault = Vault::fill(machine, Identity::ServiceAccount, Duration::ZERO);
    let broker = Broker::start(&vault.host);
    let podman = Podman::new();
    timed(podman.command().args(["secret", "create", NAME, "-"]), SECRET);
    let (key, reference) = vault.one().remove(0);
    let annotation = format!("{key}={reference}");
    let hooked = |hook: &Command, name: &str| {
        let hooks = podman.hooks(hook, name);
        let arguments = [OsStr::new("--hooks-dir"), hooks.as_os_str(), OsStr::new("--annotation"), annotation.as_ref()];
        arguments.map(ToOwned::to_owned)
    };
    let (own, through) =
        (hooked(&crate::hook(&vault.host), "hook"), hooked(&broker::hook(broker.hook_settings()), "broker"));
    let [none, secret, own, through] = times(
        ROUNDS,
        [
            &mut || podman.run::<&str>(&[]),
            &mut || podman.run(&["--secret", NAME]),
            &mut || podman.run(&own),
            &mut || podman.run(&through),
        ],
    );
    println!("\nOne secret, podman run with crun");
    row("none", median(none.clone()), None);
    row_added("podman's own, --secret", secret, &none);
    row_added("ours, without the broker", own, &none);
    row_added("ours, through the broker", through, &none);
}

impl Podman {
    fn new() -> Podman {
        let directory = tempfile::Builder::new().prefix("podman").tempdir().unwrap();
        make_rootfs(&directory.path().join("rootfs"));
        Podman { directory }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.path("root")).arg("--runroot").arg(self.path("run"));
        command.args(["--runtime=crun", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
        command
    }

    /// The duration of a container with these arguments, which is removed at its end.
    fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Duration {
        let mut command = self.command();
        command.args(["run", "--rm", "--network=none", "--log-driver=none", "--cgroups=disabled"]);
        // Those of podman can be higher than this process may set.
        command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]).args(arguments);
        timed(command.arg("--rootfs").arg(self.path("rootfs")).arg("true"), &[])
    }

    /// A directory with one hook, for containers with our annotations.
    fn hooks(&self, hook: &Command, name: &str) -> PathBuf {
        let directory = self.path(name);
        fs::create_dir(&directory).unwrap();
        let when = json!({ "annotations": { "^run\\.secrets": ".*" } });
        let hook = json!({ "version": "1.0.0", "hook": entry(hook), "when": when, "stages": ["createRuntime"] });
        fs::write(directory.join("hook.json"), hook.to_string()).unwrap();
        directory
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }
}
