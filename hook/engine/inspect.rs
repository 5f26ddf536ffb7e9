//! Containers that engines have, as they describe them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::EngineError;
use crate::container::Owner;
use crate::json;

/// Where containerd keeps the bundles of containers that have not ended; Docker's own containerd has a directory of its own.
const TASKS: [&str; 2] =
    ["/run/containerd/io.containerd.runtime.v2.task", "/run/docker/containerd/daemon/io.containerd.runtime.v2.task"];
/// Where CRI-O keeps its own.
const STORAGE: &str = "/run/containers/storage";
const DOCKER_NAMESPACE: &str = "moby";
const CONTAINERD_NAMESPACE: &str = "default";
/// Without containerd, `ctr` waits ten seconds for its socket.
const CTR_TIMEOUT: &str = "--connect-timeout=2s";

/// A container, as its engine describes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Described {
    /// Its id.
    pub id: String,
    /// Its bundle, if there is one at the moment: what the runtime really reads.
    pub bundle: Option<PathBuf>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The user of its process, if it is given by number.
    pub user: Option<Owner>,
}

/// Asks podman for one of its containers, by name or id.
///
/// # Errors
/// When podman cannot be run, knows no such container, or describes it in another form.
pub fn podman(container: &str) -> Result<Described, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        id: String,
        #[serde(rename = "OCIConfigPath", default)]
        spec: PathBuf,
        config: WithAnnotations,
    }
    let Inspected { id, spec, config } = only("podman", container)?;
    let bundle = spec.parent().filter(|_| spec.exists()).map(Path::to_owned);
    Ok(Described { id, bundle, annotations: config.annotations.unwrap_or_default(), user: None })
}

/// Asks Docker for one of its containers, by name or id.
///
/// # Errors
/// As for podman.
pub fn docker(container: &str) -> Result<Described, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        id: String,
        host_config: WithAnnotations,
    }
    let Inspected { id, host_config } = only("docker", container)?;
    let bundle = bundle(DOCKER_NAMESPACE, &id);
    Ok(Described { id, bundle, annotations: host_config.annotations.unwrap_or_default(), user: None })
}

/// Asks containerd for one of its containers, by id, in the namespace of `CONTAINERD_NAMESPACE`.
///
/// # Errors
/// As for podman.
pub fn containerd(container: &str) -> Result<Described, EngineError> {
    #[derive(Deserialize)]
    struct Inspected {
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Spec")]
        spec: Spec,
    }
    let Inspected { id, spec } = ask("ctr", &[CTR_TIMEOUT, "containers", "info", "--", container])?;
    let namespace = std::env::var("CONTAINERD_NAMESPACE").unwrap_or_else(|_| CONTAINERD_NAMESPACE.to_owned());
    let bundle = bundle(&namespace, &id);
    Ok(spec.describe(id, bundle))
}

/// Asks CRI-O for one of its containers, by id.
///
/// # Errors
/// As for podman.
pub fn crio(container: &str) -> Result<Described, EngineError> {
    #[derive(Deserialize)]
    struct Inspected {
        status: Status,
        info: Info,
    }
    #[derive(Deserialize)]
    struct Status {
        id: String,
    }
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "runtimeSpec")]
        spec: Spec,
    }
    let Inspected { status: Status { id }, info: Info { spec } } = ask("crictl", &["inspect", "--", container])?;
    let bundle = bundle_in_storage(Path::new(STORAGE), &id);
    Ok(spec.describe(id, bundle))
}

/// What is read of a spec that an engine prints.
#[derive(Deserialize)]
struct Spec {
    annotations: Option<BTreeMap<String, String>>,
    process: Option<Process>,
}

#[derive(Deserialize)]
struct Process {
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    uid: u32,
    gid: u32,
}

impl Spec {
    fn describe(self, id: String, bundle: Option<PathBuf>) -> Described {
        let user = self.process.and_then(|process| process.user).map(|user| Owner { uid: user.uid, gid: user.gid });
        Described { id, bundle, annotations: self.annotations.unwrap_or_default(), user }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WithAnnotations {
    annotations: Option<BTreeMap<String, String>>,
}

/// The bundle of a container of this namespace, if it has one at the moment.
fn bundle(namespace: &str, id: &str) -> Option<PathBuf> {
    let bundles = TASKS.iter().map(|tasks| Path::new(tasks).join(namespace).join(id));
    bundles.into_iter().find(|bundle| bundle.join("config.json").exists())
}

/// The bundle of a container of CRI-O: `<driver>-containers/<id>/userdata`, whatever the driver.
fn bundle_in_storage(storage: &Path, id: &str) -> Option<PathBuf> {
    let drivers = std::fs::read_dir(storage).ok()?.flatten().map(|entry| entry.path());
    let bundles = drivers.filter(|path| path.to_string_lossy().ends_with("-containers"));
    bundles.map(|path| path.join(id).join("userdata")).find(|bundle| bundle.join("config.json").exists())
}

fn ask<T: DeserializeOwned>(program: &'static str, arguments: &[&str]) -> Result<T, EngineError> {
    let refused = |reason: String| EngineError::NotDescribed { program, reason };
    let output = Command::new(program).args(arguments).output().map_err(|error| refused(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(refused(said.lines().next_back().unwrap_or("it says nothing").trim().to_owned()));
    }
    // What is in a description stays out of messages.
    let form = |error: serde_json::Error| format!("not its JSON, at line {} column {}", error.line(), error.column());
    json::from_slice(&output.stdout).map_err(|error| refused(form(error)))
}

/// What `inspect`, which podman and Docker have alike, prints of one container.
fn only<T: DeserializeOwned>(program: &'static str, container: &str) -> Result<T, EngineError> {
    let mut list: Vec<T> = ask(program, &["inspect", "--type", "container", "--", container])?;
    match (list.pop(), list.len()) {
        (Some(one), 0) => Ok(one),
        (_, others) => Err(EngineError::NotDescribed { program, reason: format!("it describes {others} others, too") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bundle_of_a_container_whatever_the_storage_driver() {
        let storage = tempfile::tempdir().unwrap();
        let bundle = storage.path().join("vfs-containers/c1/userdata");
        for directory in ["overlay-containers/c2/userdata", "overlay-layers", "vfs-containers/c1/userdata"] {
            std::fs::create_dir_all(storage.path().join(directory)).unwrap();
        }
        assert_eq!(bundle_in_storage(storage.path(), "c1"), None);
        std::fs::write(bundle.join("config.json"), "{}").unwrap();
        assert_eq!(bundle_in_storage(storage.path(), "c1"), Some(bundle));
        assert_eq!(bundle_in_storage(storage.path(), "c2"), None);
        assert_eq!(bundle_in_storage(&storage.path().join("none"), "c1"), None);
    }
}
