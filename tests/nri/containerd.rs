//! A containerd with NRI, for these tests alone.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::sandbox;

const PATIENCE: Duration = Duration::from_secs(60);

/// The handler whose base spec has the hook.
pub(crate) const WITH_BASE_SPEC: &str = "base";

/// How long the runtime waits for a plugin: the default, which the settings make explicit.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The first containerd whose plugins can validate, with NRI 0.10.
const VALIDATES_SINCE: (u32, u32) = (2, 2);

/// A running containerd. It is killed when this is dropped; its containers run on, as they do after a crash.
pub(crate) struct Containerd {
    process: Child,
    root: PathBuf,
}

impl Containerd {
    /// Starts it with what earlier ones have left in this directory.
    pub(crate) fn start(root: &Path) -> Containerd {
        fs::create_dir_all(root).unwrap();
        fs::write(root.join("config.toml"), config(root)).unwrap();
        let path = |name: &str| root.join(name).into_os_string();
        let log = File::options().create(true).append(true).open(root.join("log")).unwrap();
        let mut command = Command::new(sandbox::find("containerd").unwrap());
        command.arg("--config").arg(path("config.toml")).arg("--address").arg(path("socket"));
        command.arg("--root").arg(path("root")).arg("--state").arg(path("state"));
        command.env_clear().env("PATH", sandbox::PATH).process_group(0).current_dir("/");
        let process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let containerd = Containerd { process, root: root.to_owned() };
        containerd.wait_until_ready();
        containerd
    }

    /// Ends the process, and starts it again: its containers run on.
    pub(crate) fn restart(&mut self) {
        let root = self.root.clone();
        let _ = self.process.kill();
        let _ = self.process.wait();
        *self = Containerd::start(&root);
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("socket")
    }

    pub(crate) fn nri_socket(&self) -> PathBuf {
        self.root.join("nri.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap()
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(sandbox::find("ctr").unwrap());
        command.env_clear().env("PATH", sandbox::PATH).arg("--address").arg(self.socket()).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Ends all containers. Those of one pod end with its first process, so that some are gone when it is their turn.
    fn remove_all(&self) {
        let listed = self.ctr(&["--namespace", "k8s.io", "tasks", "ls", "-q"]).stdout;
        for id in String::from_utf8_lossy(&listed).lines() {
            self.ctr(&["--namespace", "k8s.io", "tasks", "rm", "--force", id]);
        }
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.ctr(&["version"]).status.success() || !self.nri_socket().exists() {
            assert!(Instant::now() < deadline, "{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.remove_all();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The version of the installed containerd, as far as it matters.
pub(crate) fn version() -> Option<(u32, u32)> {
    let output = Command::new(sandbox::find("containerd")?).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version =
        text.split_whitespace().find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = version.trim_start_matches('v').split('.').map(|number| number.parse().unwrap());
    numbers.next().zip(numbers.next())
}

/// Whether the installed containerd lets plugins, and its own validator, refuse containers.
pub(crate) fn validates() -> bool {
    version().unwrap() >= VALIDATES_SINCE
}

/// Nothing but NRI is changed, and what is special about this place.
fn config(root: &Path) -> String {
    let root = root.display();
    let validator = match validates() {
        true => "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\nenable = true",
        false => "",
    };
    format!(
        r#"
version = 2
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "{root}/nri.sock"
plugin_path = "{root}/plugins"
plugin_config_path = "{root}/conf.d"
plugin_request_timeout = "{REQUEST_TIMEOUT:?}"
{validator}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/cni"
conf_dir = "{root}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{WITH_BASE_SPEC}]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{root}/base.json"
pod_annotations = ["run.secrets/*"]
"#,
        image = crate::support::cri::IMAGE
    )
}

/// Writes the base spec of [`WITH_BASE_SPEC`].
pub(crate) fn write_base_spec(root: &Path, hook_settings: &Path) {
    fs::create_dir_all(root).unwrap();
    let output = Command::new(sandbox::find("ctr").unwrap()).args(["oci", "spec"]).output().unwrap();
    let mut spec: Value = serde_json::from_slice(&output.stdout).unwrap();
    let arguments = json!(["oci-secrets-hook", "--settings", hook_settings]);
    spec["hooks"] = json!({ "createRuntime": [{ "path": sandbox::HOOK, "args": arguments }] });
    fs::write(root.join("base.json"), spec.to_string()).unwrap();
}
