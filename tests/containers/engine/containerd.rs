//! containerd: single containers by `ctr`, and pods through its Container Runtime Interface.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::daemon::{Daemon, write_runtime};
use super::{Driver, answer, program, root};
use crate::container::Container;
use crate::spec::{self, Twist};
use crate::support::cri::{self, IMAGE, Pod};
use crate::support::sandbox;

/// As it is shipped; where the base spec is found differs.
const CONFIG: &str = include_str!("../../../config/containerd/config.toml");
const BASE_SPEC: &str = "/etc/containerd/oci-secrets.json";

/// The hook as a spec lists it.
const HOOKS: &str = include_str!("../../../config/hooks.d/90-oci-secrets.json");

/// How a pod's containers come to the hook: by a base spec that has it, as it is shipped, or by the wrapper.
pub(crate) const HANDLERS: [&str; 2] = ["oci-secrets", "wrapper"];

pub(super) static CTR: Ctr = Ctr(&["busybox", "containerd", "ctr", "runc"]);
/// Pods are run by [`run_pod`]; here is only what it needs.
pub(super) static CRI: Ctr = Ctr(&["busybox", "containerd", "ctr", "jq", "python3", "runc", "tar"]);

pub(super) struct Ctr(&'static [&'static str]);

static DAEMON: LazyLock<Daemon> = LazyLock::new(begin);

fn begin() -> Daemon {
    let root = root("containerd");
    fs::create_dir_all(&root).unwrap();
    write_runtime(&root.join("runtime"), settings().to_str().unwrap());
    let base: Value = serde_json::from_str(&answer(client(&["oci", "spec"]))).unwrap();
    fs::write(root.join("base.json"), with_hook(base).to_string()).unwrap();
    fs::write(root.join("config.toml"), config(&root)).unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let [config, socket, data, state] = ["config.toml", "socket", "root", "state"].map(path);
    let words = ["containerd", "--config", &config, "--address", &socket, "--root", &data, "--state", &state];
    let farewell = format!(
        "for space in default k8s.io; do
             ctr --address {0} --namespace $space tasks ls -q | xargs -r ctr --address {0} --namespace $space tasks rm -f
         done",
        socket
    );
    Daemon::start(&words, &farewell, &root, || client(&["version"]))
}

/// The shipped configuration, and what is special about this place.
fn config(root: &Path) -> String {
    let root = root.display();
    let ours = CONFIG.replace(BASE_SPEC, &format!("{root}/base.json"));
    assert_ne!(ours, CONFIG);
    let here = format!(
        r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/cni"
conf_dir = "{root}/cni"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wrapper]
runtime_type = "io.containerd.runc.v2"
pod_annotations = ["run.secrets/*", "*.run.secrets/*", "run.secrets.*"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wrapper.options]
BinaryName = "{root}/runtime"
"#
    );
    ours.replace("default_runtime_name", "snapshotter = \"native\"\ndefault_runtime_name") + &here
}

fn with_hook(mut spec: Value) -> Value {
    let mut hook: Value = serde_json::from_str(HOOKS).unwrap();
    hook["hook"]["path"] = sandbox::HOOK.into();
    hook["hook"]["args"] = json!(["oci-secrets-hook", "--settings", settings()]);
    spec["hooks"] = json!({ "createRuntime": [hook["hook"]] });
    spec
}

fn client(verb: &[&str]) -> Command {
    let mut command = program("ctr");
    command.arg("--address").arg(root("containerd").join("socket")).args(verb);
    command
}

impl Driver for Ctr {
    fn programs(&self) -> &'static [&'static str] {
        self.0
    }

    fn command(&self, verb: &[&str]) -> Command {
        LazyLock::force(&DAEMON);
        client(verb)
    }

    /// Its options say little of a container: a spec says it all.
    fn run(&self, container: &Container<'_>, script: &str) -> Command {
        let (spec_path, runtime) = (container.directory.join("spec.json"), runtime(container));
        // When a container ends, `ctr` does not always read what it has printed last.
        let mut spec = spec::spec(container, &format!("({script}\n)\ncode=$?\nsleep 0.2\nexit $code"));
        spec["root"]["path"] = json!(container.rootfs());
        // Before 2.1, containerd forgets --runc-binary if there is a user namespace: there the spec has the hook, as a base spec has.
        if !container.twists.iter().any(|twist| matches!(twist, Twist::UserNamespace)) {
            spec.as_object_mut().unwrap().remove("hooks").unwrap();
        }
        fs::write(&spec_path, spec.to_string()).unwrap();
        let mut command = self.command(&["run", "--rm", "--runc-binary"]);
        command.arg(runtime).arg("--config").arg(spec_path).arg(&container.name);
        command
    }

    fn pid(&self, name: &str) -> u32 {
        let tasks = answer(self.command(&["tasks", "list"]));
        let task = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        task.filter(|words| words[0] == name).map(|words| words[1].parse().unwrap()).next().unwrap()
    }

    fn remove(&self, name: &str) -> Command {
        self.command(&["tasks", "rm", "--force", name])
    }
}

/// The runtime of a container that `ctr` runs.
pub(crate) fn runtime(container: &Container<'_>) -> PathBuf {
    let path = container.directory.join("runtime");
    write_runtime(&path, container.settings_path().to_str().unwrap());
    path
}

/// Where the settings for all pods are.
fn settings() -> PathBuf {
    root("containerd").join("settings.toml")
}

/// Writes the settings for all pods.
pub(crate) fn write_settings(settings_of_pods: &str) {
    LazyLock::force(&DAEMON);
    fs::write(settings(), settings_of_pods).unwrap();
}

/// Runs a pod whose containers, one after the other, are these scripts; `None` without a client.
pub(crate) fn run_pod(
    name: &str,
    handler: &str,
    annotations: &BTreeMap<String, String>,
    marks: Option<&Path>,
    containers: &[(&str, &str)],
) -> Option<Pod> {
    static IMAGES: LazyLock<()> =
        LazyLock::new(|| cri::import(&root("containerd").join("socket"), &root("containerd").join("image")));
    if !cri::has_client() {
        return None;
    }
    LazyLock::force(&DAEMON);
    LazyLock::force(&IMAGES);
    let mounts: BTreeMap<_, _> = marks.into_iter().map(|marks| (marks.to_str().unwrap(), "/marks")).collect();
    let more = json!({ "handler": handler, "annotations": annotations, "mounts": mounts });
    Some(cri::run(&root("containerd").join("socket"), name, containers, more))
}
