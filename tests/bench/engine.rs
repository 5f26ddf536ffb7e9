//! Containers that only run `/bin/true`, on real engines.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::FOREIGN;
use crate::measure::attempt;

pub(crate) const ENGINES: [&str; 2] = ["crun", "runc"];

const RUNS_MAX: u32 = 5;

/// A container that runs `/bin/true`.
pub(crate) struct Bundle {
    directory: TempDir,
}

impl Bundle {
    /// Creates a bundle with this `createRuntime` hook, or none.
    pub(crate) fn with(hook: Option<Command>) -> Bundle {
        let directory = tempfile::Builder::new().prefix("bundle").tempdir().unwrap();
        make_rootfs(&directory.path().join("rootfs"));
        let namespaces = ["mount", "pid", "ipc", "uts"].map(|kind| json!({ "type": kind }));
        let hooks = hook.map_or(json!({}), |hook| json!({ "createRuntime": [entry(&hook)] }));
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 1000, "gid": 1000 }, "args": ["/bin/true"], "cwd": "/" },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "namespaces": namespaces },
            "annotations": FOREIGN.into_iter().collect::<BTreeMap<_, _>>(),
            "hooks": hooks,
        });
        fs::write(directory.path().join("config.json"), spec.to_string()).unwrap();
        Bundle { directory }
    }

    /// The duration of the container from creation to exit.
    ///
    /// crun fails if the hook exits before it has read the state, as `/bin/true` sometimes does: that run is repeated.
    pub(crate) fn run(&self, engine: &str) -> Duration {
        let mut command = Command::new(engine);
        command.arg("run").arg("--bundle").arg(self.directory.path()).arg("oci-secrets-bench");
        let mut runs = (0..RUNS_MAX).map(|_| attempt(&mut command, &[]));
        runs.find_map(Result::ok).unwrap()
    }
}

/// Makes a root filesystem that has `/bin/true`.
pub(crate) fn make_rootfs(path: &Path) {
    for part in ["bin", "dev", "proc"] {
        fs::create_dir_all(path.join(part)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("bin/busybox")).unwrap();
    symlink("busybox", path.join("bin/true")).unwrap();
}

/// Mounts only cgroup v2: crun does not support a hybrid hierarchy.
pub(crate) fn unify_cgroups() {
    if Path::new("/sys/fs/cgroup/unified").exists() {
        mount("none", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
    }
}

/// A hook in the format of the spec.
pub(crate) fn entry(hook: &Command) -> Value {
    let words = [hook.get_program()].into_iter().chain(hook.get_args()).map(|word| word.to_str().unwrap());
    json!({
        "path": hook.get_program().to_str().unwrap(),
        "args": words.collect::<Vec<_>>(),
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    })
}
