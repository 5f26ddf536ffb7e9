//! containerd, whose pods begin with a base spec that has the hook in it, and get the annotations that its settings name.
//!
//! It can take the wrapper for a runtime, too, but forgets it before 2.1 where a container has a user namespace.
//!
//! See [the CRI plugin's settings](https://github.com/containerd/containerd/blob/main/docs/cri/config.md).

mod calls;
mod edit;
mod effective;

use std::path::PathBuf;
use std::process::Command;

use toml::{Table, Value};

pub(super) use self::calls::{calls, passes_pod_annotation};
use self::edit::{DEFAULT, HANDLER};
use self::effective::{BASE_SPEC, Effective, PATH, is_match, is_merged};
use super::{Change, EngineError, Hook, Host, hooks_d};
use crate::engine::bundle::has_hook;
use crate::json;

/// As it is shipped.
const FILE: &str = include_str!("../../../config/containerd/config.toml");

/// What a drop-in file of ours may be called. The first that overrides the files which are there is taken.
const DROP_IN_NAMES: [&str; 3] = ["90-oci-secrets.toml", "99-oci-secrets.toml", "zz-oci-secrets.toml"];

/// What every drop-in file of ours begins with.
const HEADING: &str = "# Written by `oci-secrets install`, removed by `oci-secrets uninstall`.\n";

/// The base spec, made of that of the default runtime, and the settings that name it.
///
/// The settings are a drop-in file where containerd merges such files; elsewhere they are added to the main file.
pub(super) fn install(host: &Host, hook: &Hook) -> Result<Vec<Change>, EngineError> {
    let written = written(host)?;
    let others = host.without(&written);
    let found = effective::read(&others)?;
    let base = Change::new(host.path(BASE_SPEC), base_spec(host, &found, hook)?);
    let settings = settings(&others, &found, &written)?;
    let stale = written.into_iter().filter(|path| *path != settings.path).map(|path| Change::merged(path, None));
    let stale: Vec<Change> = stale.collect();
    Ok([Change { is_merged: is_ours(host)?, ..base }, settings].into_iter().chain(stale).collect())
}

/// The removal of these files: the settings first, as pods of a handler without its base spec do not start.
pub(super) fn uninstall(host: &Host) -> Result<Vec<Change>, EngineError> {
    let path = host.path(PATH);
    let mut changes: Vec<Change> = written(host)?.into_iter().map(|path| Change::merged(path, None)).collect();
    if let Some(text) = host.read(&path)? {
        let plugin = effective::read(host)?.plugin;
        if text == FILE {
            changes.push(Change::merged(path, None));
        } else if let Some(text) = edit::remove(&text, &path, plugin)? {
            changes.push(Change::merged(path, Some(text)));
        }
    }
    if is_ours(host)? {
        changes.push(Change::merged(host.path(BASE_SPEC), None));
    }
    Ok(changes)
}

/// Whether there is a base spec of ours.
fn is_ours(host: &Host) -> Result<bool, EngineError> {
    let text = host.read(&host.path(BASE_SPEC))?;
    Ok(text.is_some_and(|text| has_hook(&text).is_ok_and(|has_hook| has_hook)))
}

/// The settings that name the handler, on a host without the drop-in files that were written before.
fn settings(host: &Host, found: &Effective, written: &[PathBuf]) -> Result<Change, EngineError> {
    let path = host.path(PATH);
    let name = found.cri.get("default_runtime_name").and_then(Value::as_str).unwrap_or_default();
    if !["", HANDLER, DEFAULT].contains(&name) {
        let key = "default_runtime_name".to_owned();
        return Err(EngineError::Taken { path: found.named_by.clone(), key, remedy: edit::REMEDY });
    }
    let options = options(&found.cri);
    let Some(text) = host.read(&path)?.filter(|text| text != FILE) else {
        return Ok(Change::new(path, FILE.to_owned()));
    };
    let is_in_main = runtime(&found.cri, HANDLER).is_some();
    for drop_in in drop_ins(host, found).into_iter().filter(|_| !is_in_main) {
        let start = format!("{HEADING}version = {}\n", found.version);
        let content = edit::add(&start, &drop_in, found.plugin, &options)?;
        let is_merged = written.contains(&drop_in);
        let change = Change { is_merged, ..Change::new(drop_in, content) };
        let then = effective::read(&host.with(std::slice::from_ref(&change)))?;
        if then.cri.get("default_runtime_name").and_then(Value::as_str) == Some(HANDLER) {
            return Ok(change);
        }
    }
    let content = edit::add(&text, &path, found.plugin, &options)?;
    Ok(Change::merged(path, Some(content)))
}

/// Where a drop-in file of ours would be imported, if containerd merges such files.
fn drop_ins(host: &Host, found: &Effective) -> Vec<PathBuf> {
    let patterns = || found.imports.iter().filter(|_| is_merged(host)).map(|pattern| host.path(pattern));
    let in_directory = |pattern: PathBuf| DROP_IN_NAMES.map(|name| pattern.with_file_name(name));
    patterns().flat_map(in_directory).filter(|path| patterns().any(|pattern| is_match(&pattern, path))).collect()
}

/// The drop-in files that were written before.
fn written(host: &Host) -> Result<Vec<PathBuf>, EngineError> {
    let mut written = Vec::new();
    for path in drop_ins(host, &effective::read(host)?) {
        if host.read(&path)?.is_some_and(|text| text.starts_with(HEADING)) {
            written.push(path);
        }
    }
    Ok(written)
}

/// The options of the runtime that is the default one without us.
fn options(cri: &Table) -> Table {
    runtime(cri, DEFAULT).and_then(|runtime| runtime.get("options")?.as_table().cloned()).unwrap_or_default()
}

fn runtime<'a>(cri: &'a Table, name: &str) -> Option<&'a Value> {
    cri.get("runtimes")?.get(name)
}

/// The default runtime's base spec, or else containerd's own, with the hook in it.
fn base_spec(host: &Host, found: &Effective, hook: &Hook) -> Result<String, EngineError> {
    let failed = |error: serde_json::Error| EngineError::NoBaseSpec { reason: error.to_string() };
    let named = runtime(&found.cri, DEFAULT).and_then(|runtime| runtime.get("base_runtime_spec")?.as_str());
    if let Some(path) = named.filter(|path| !path.is_empty()) {
        let path = host.path(path);
        let missing = || EngineError::Format { path: path.clone(), reason: "it is missing".to_owned() };
        return with_hook(host.read(&path)?.ok_or_else(missing)?.as_bytes(), hook).map_err(failed);
    }
    let output = Command::new("ctr").args(["oci", "spec"]).output();
    let output = output.map_err(|error| EngineError::NoBaseSpec { reason: error.to_string() })?;
    if !output.status.success() {
        return Err(EngineError::NoBaseSpec { reason: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
    }
    with_hook(&output.stdout, hook).map_err(failed)
}

/// A spec that calls the hook, after the hooks that it calls already.
fn with_hook(spec: &[u8], hook: &Hook) -> Result<String, serde_json::Error> {
    type Object = serde_json::Map<String, serde_json::Value>;
    let mut spec: Object = json::from_slice(spec)?;
    let entry: serde_json::Value = serde_json::from_str(hooks_d::entry(hook)?.get())?;
    let hooks: Option<Object> = spec.remove("hooks").map(serde_json::from_value).transpose()?.flatten();
    let mut hooks = hooks.unwrap_or_default();
    let at_stage: Option<Vec<serde_json::Value>> =
        hooks.remove(hooks_d::STAGE).map(serde_json::from_value).transpose()?.flatten();
    let mut at_stage = at_stage.unwrap_or_default();
    at_stage.push(entry);
    hooks.insert(hooks_d::STAGE.to_owned(), at_stage.into());
    spec.insert("hooks".to_owned(), hooks.into());
    Ok(format!("{:#}\n", serde_json::Value::Object(spec)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Calls;
    use crate::engine::testing::{Root, hook};

    /// As Debian installs it.
    const DEBIAN: &str =
        "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/usr/lib/cni\"\n";

    /// The same, as a newer containerd has it, whose default runtime has a base spec.
    const IMPORTING: &str = "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\n\
        default_runtime_name = 'runc'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
        base_runtime_spec = '/etc/containerd/base.json'\noptions.SystemdCgroup = true\n";

    fn host(root: &Root, containerd: u32) -> Host {
        root.write("/etc/containerd/base.json", r#"{"hooks":{"createRuntime":[{"path":"/x/other"}],"poststop":[]}}"#);
        Host { versions: [("containerd", containerd)].into(), ..root.host.clone() }
    }

    fn apply(changes: &[Change]) {
        changes.iter().for_each(|change| assert!(change.apply().is_ok(), "{}", change.path.display()));
    }

    /// Installs, checks that pods come to the hook, uninstalls, and returns the changed files.
    fn installed_and_removed(root: &Root, host: &Host) -> Vec<PathBuf> {
        let before = host.read(&host.path(PATH)).unwrap();
        let hook = Hook { path: root.program("oci-secrets-hook").into(), settings: None };
        let changes = install(host, &hook).unwrap();
        apply(&changes);
        assert_eq!(
            install(host, &hook).unwrap(),
            changes.iter().map(|change| Change { is_merged: true, ..change.clone() }).collect::<Vec<_>>()
        );
        let settings = changes[1].path.clone();
        assert_eq!(calls(host).unwrap(), Calls { by: vec![settings], caution: None });
        apply(&uninstall(host).unwrap());
        assert_eq!(calls(host).unwrap(), Calls::default());
        assert_eq!(host.read(&host.path(PATH)).unwrap(), before);
        assert!(!host.path(BASE_SPEC).exists() && uninstall(host).unwrap().is_empty());
        changes.into_iter().map(|change| change.path).collect()
    }

    #[test]
    fn a_drop_in_is_written_where_containerd_merges_what_it_imports() {
        let root = Root::new();
        root.write(PATH, IMPORTING);
        let host = host(&root, 2);
        let drop_in = |name: &str| vec![host.path(BASE_SPEC), host.path("/etc/containerd/conf.d").join(name)];
        assert_eq!(installed_and_removed(&root, &host), drop_in("90-oci-secrets.toml"));
        root.write(
            "/etc/containerd/conf.d/95.toml",
            "[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'runc'\n",
        );
        assert_eq!(installed_and_removed(&root, &host), drop_in("99-oci-secrets.toml"));
        // The hooks of the base spec that was there, and the driver of cgroups, stay.
        let changes = install(&host, &hook()).unwrap();
        let base: serde_json::Value = serde_json::from_str(changes[0].content.as_ref().unwrap()).unwrap();
        assert_eq!(base["hooks"]["createRuntime"][0]["path"], "/x/other");
        assert_eq!(base["hooks"]["createRuntime"].as_array().unwrap().len(), 2);
        assert!(changes[1].content.as_ref().unwrap().contains("SystemdCgroup = true"));
    }

    #[test]
    fn the_main_file_gets_the_handler_where_imports_replace_it() {
        let root = Root::new();
        let host = host(&root, 1);
        for text in [
            IMPORTING.to_owned(),
            DEBIAN.to_owned()
                + "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nbase_runtime_spec = '/etc/containerd/base.json'\n",
        ] {
            root.write(PATH, &text);
            assert_eq!(installed_and_removed(&root, &host), [host.path(BASE_SPEC), host.path(PATH)]);
        }
    }

    #[test]
    fn a_default_runtime_of_others_stands() {
        let root = Root::new();
        let host = host(&root, 2);
        root.write(PATH, &IMPORTING.replace("'runc'", "'nvidia'"));
        assert!(matches!(install(&host, &hook()), Err(EngineError::Taken { .. })));
    }
}
