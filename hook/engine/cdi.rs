//! The Container Device Interface: podman, Docker and containerd call the hooks of a device that a container asks for.
//!
//! See the [specification](https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md).

use std::path::PathBuf;

use serde::Deserialize;

use super::host::{files_in, read};
use super::{Calls, EngineError, File, Hook, Host, hooks_d};
use crate::container::is_hook;
use crate::json;

/// As it is shipped.
const FILE: &str = include_str!("../../config/cdi/oci-secrets.json");

/// Where devices are looked for.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The file that describes the device.
pub(super) fn files(host: &Host, hook: &Hook) -> Vec<File> {
    vec![File::ours(host.path("/etc/cdi/oci-secrets.json"), hooks_d::content(FILE, hook))]
}

/// The files with a device that calls the hook. Files in YAML, which others write, are passed over.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let mut calls = Vec::new();
    for directory in DIRECTORIES {
        for path in files_in(&host.path(directory), "json")? {
            let Some(text) = read(&path)? else { continue };
            let format =
                |error: serde_json::Error| EngineError::Format { path: path.clone(), reason: error.to_string() };
            let kind: CdiKind = json::from_str(&text).map_err(format)?;
            let hooks =
                kind.devices.iter().map(|device| &device.edits).chain([&kind.edits]).flat_map(|edits| &edits.hooks);
            for hook in hooks.filter(|hook| is_hook(&hook.path)) {
                hooks_d::require_program(&path, &hook.path)?;
                if hook.name != "createRuntime" {
                    return Err(EngineError::Stage { path, found: hook.name.clone() });
                }
                calls.push(path.clone());
            }
        }
    }
    calls.dedup();
    Ok(Calls { by: calls, caution: None })
}

/// What is read of a file.
#[derive(Deserialize)]
struct CdiKind {
    #[serde(default)]
    devices: Vec<Device>,
    /// The edits that all devices have.
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Default, Deserialize)]
struct Device {
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Edits {
    hooks: Vec<Called>,
}

#[derive(Deserialize)]
struct Called {
    #[serde(rename = "hookName")]
    name: String,
    path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::HOOK_NAME;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_shipped_device_calls_the_hook_at_its_stage() {
        let root = tempfile::tempdir().unwrap();
        let host = Host { root: root.path().to_owned(), user: None };
        let hook = Hook { path: root.path().join(HOOK_NAME), settings: None };
        assert_eq!(calls(&host).unwrap(), Calls::default());
        let [file] = &files(&host, &hook)[..] else { panic!() };
        file.write().unwrap();
        assert!(matches!(calls(&host), Err(EngineError::Hook { .. })));
        fs::write(&hook.path, "").unwrap();
        fs::set_permissions(&hook.path, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(calls(&host).unwrap().by, [host.path("/etc/cdi/oci-secrets.json")]);

        fs::write(&file.path, file.content.replace("createRuntime", "createContainer")).unwrap();
        assert!(matches!(calls(&host), Err(EngineError::Stage { .. })));
        fs::write(&file.path, r#"{"cdiVersion":"0.5.0","kind":"a/b","devices":[]}"#).unwrap();
        assert_eq!(calls(&host).unwrap(), Calls::default());
    }
}
