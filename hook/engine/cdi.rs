//! The Container Device Interface: podman, Docker and containerd call the hooks of a device that a container asks for.
//!
//! See the [specification](https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md).

use std::path::PathBuf;

use serde::Deserialize;

use super::{Calls, Change, EngineError, Hook, Host, hooks_d};
use crate::container::is_hook;
use crate::json;

/// As it is shipped.
const FILE: &str = include_str!("../../config/cdi/oci-secrets.json");

/// Where devices are looked for.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Where the device is described.
const PATH: &str = "/etc/cdi/oci-secrets.json";

/// The file that describes the device.
pub(super) fn install(host: &Host, hook: &Hook) -> Vec<Change> {
    vec![Change::new(host.path(PATH), hooks_d::content(FILE, hook))]
}

/// The removal of that file.
pub(super) fn uninstall(host: &Host) -> Result<Vec<Change>, EngineError> {
    let path = host.path(PATH);
    let Some(text) = host.read(&path)? else { return Ok(Vec::new()) };
    let written_for = json::from_str(&text).ok().and_then(|kind: CdiKind| {
        let called = kind.devices.into_iter().flat_map(|device| device.edits.hooks).next()?;
        Some(called.hook())
    });
    match written_for.filter(|hook| hooks_d::content(FILE, hook) == text) {
        Some(_) => Ok(vec![Change::merged(path, None)]),
        None => Err(EngineError::Edited { path }),
    }
}

/// The files with a device that calls the hook. Files in YAML, which others write, are passed over.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let mut calls = Vec::new();
    for directory in DIRECTORIES {
        for path in host.files_in(&host.path(directory), "json")? {
            let Some(text) = host.read(&path)? else { continue };
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
    #[serde(default)]
    args: Vec<String>,
}

impl Called {
    fn hook(self) -> Hook {
        Hook { path: self.path, settings: hooks_d::settings(&self.args) }
    }
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
        let host = Host::below(root.path().to_owned());
        let hook = Hook { path: root.path().join(HOOK_NAME), settings: None };
        assert_eq!(calls(&host).unwrap(), Calls::default());
        let [file] = &install(&host, &hook)[..] else { panic!() };
        file.apply().unwrap();
        assert!(matches!(calls(&host), Err(EngineError::Hook { .. })));
        fs::write(&hook.path, "").unwrap();
        fs::set_permissions(&hook.path, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(calls(&host).unwrap().by, [host.path("/etc/cdi/oci-secrets.json")]);

        assert_eq!(uninstall(&host).unwrap(), [Change::merged(file.path.clone(), None)]);

        let content = file.content.as_ref().unwrap();
        fs::write(&file.path, content.replace("createRuntime", "createContainer")).unwrap();
        assert!(matches!(calls(&host), Err(EngineError::Stage { .. })));
        assert!(matches!(uninstall(&host), Err(EngineError::Edited { .. })));
        fs::write(&file.path, r#"{"cdiVersion":"0.5.0","kind":"a/b","devices":[]}"#).unwrap();
        assert_eq!(calls(&host).unwrap(), Calls::default());
    }
}
