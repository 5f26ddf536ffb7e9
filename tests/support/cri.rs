//! Pods on containerd, run as the kubelet does it: through the Container Runtime Interface.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{sandbox, skip};

/// The image of every container of a pod, the pause container's too.
pub(crate) const IMAGE: &str = "localhost/busybox:latest";

/// Packs a root filesystem as an image, and lets containerd have it: directory, image, socket.
const IMPORT: &str = r#"
set -e
cd "$1"
tar -C rootfs -cf layer.tar .
sum=$(sha256sum layer.tar | cut -d' ' -f1)
jq -n --arg sum "sha256:$sum" --arg architecture "$(dpkg --print-architecture)" '{$architecture, os: "linux",
    rootfs: {type: "layers", diff_ids: [$sum]}, config: {Env: ["PATH=/bin"], Entrypoint: ["sleep", "600"]}}' >config.json
jq -n --arg image "$2" '[{Config: "config.json", RepoTags: [$image], Layers: ["layer.tar"]}]' >manifest.json
tar -cf - config.json manifest.json layer.tar | ctr --namespace k8s.io --address "$3" image import -
"#;

/// What became of a pod's containers.
pub(crate) struct Pod(Value);

impl Pod {
    /// What a container printed, which ended well.
    pub(crate) fn printed(&self, container: &str) -> Vec<&str> {
        let container = &self.0["containers"][container];
        assert_eq!(container["exit"], 0, "{}", self.0);
        container["log"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
    }

    /// Why a container did not start.
    pub(crate) fn error(&self, container: &str) -> &str {
        self.0["containers"][container]["error"].as_str().unwrap_or_else(|| panic!("{}", self.0))
    }
}

/// Whether there is what the client needs.
pub(crate) fn has_client() -> bool {
    let found = command("python3").args(["-c", "import grpc"]).output().unwrap().status.success();
    if !found {
        skip("python3-grpcio is not installed");
    }
    found
}

/// Makes the image in a directory, and lets the containerd at a socket have it.
pub(crate) fn import(socket: &Path, directory: &Path) {
    sandbox::make_rootfs(&directory.join("rootfs"));
    let output = command("sh").args(["-c", IMPORT, "sh"]).arg(directory).arg(IMAGE).arg(socket).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Runs a pod whose containers, one after the other, are these scripts; `more` has members of the client's input.
pub(crate) fn run(socket: &Path, name: &str, containers: &[(&str, &str)], more: Value) -> Pod {
    let scripts: BTreeMap<_, _> =
        containers.iter().map(|(name, script)| (*name, json!(["sh", "-c", script]))).collect();
    let mut pod =
        json!({ "name": name, "handler": "", "annotations": {}, "image": IMAGE, "mounts": {}, "containers": scripts });
    pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut client = command("python3")
        .args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clients/cri_client.py")])
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(pod.to_string().as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pod: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pod["sandbox"], Value::Null, "the pod's own container did not start");
    Pod(pod)
}

fn command(program: &str) -> Command {
    let mut command = Command::new(sandbox::find(program).unwrap());
    command.env_clear().env("PATH", sandbox::PATH);
    command
}
