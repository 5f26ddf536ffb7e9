//! containerd, whose pods begin with a base spec that has the hook in it, and get the annotations that its settings name.
//!
//! It can take the wrapper for a runtime, too, but forgets it before 2.1 where a container has a user namespace.
//!
//! See [the CRI plugin's settings](https://github.com/containerd/containerd/blob/main/docs/cri/config.md).

use std::path::Path;
use std::process::Command;

use regex::Regex;
use toml::{Table, Value};

use super::host::{is_wrapper, read};
use super::{Calls, EngineError, File, Hook, Host, hooks_d};
use crate::engine::bundle::has_hook;
use crate::json;

/// As it is shipped.
const FILE: &str = include_str!("../../config/containerd/config.toml");
const PATH: &str = "/etc/containerd/config.toml";
const BASE_SPEC: &str = "/etc/containerd/oci-secrets.json";

/// Where the settings of the CRI are, in containerd 1 and in containerd 2.
const PLUGINS: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];

/// Annotations that have to come through, and those that pods must not be able to set: what grants look at.
const OURS: [&str; 3] = ["run.secrets/x", "app.run.secrets/x", "run.secrets.owner"];
const OTHERS: [&str; 3] = ["team", "example.com/team", "io.kubernetes.cri.sandbox-namespace"];

/// The base spec, made of containerd's own, and the settings that name it.
pub(super) fn files(host: &Host, hook: &Hook) -> Result<Vec<File>, EngineError> {
    let output = Command::new("ctr").args(["oci", "spec"]).output();
    let output = output.map_err(|error| EngineError::NoBaseSpec { reason: error.to_string() })?;
    if !output.status.success() {
        return Err(EngineError::NoBaseSpec { reason: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
    }
    let spec =
        with_hook(&output.stdout, hook).map_err(|error| EngineError::NoBaseSpec { reason: error.to_string() })?;
    Ok(vec![File::ours(host.path(BASE_SPEC), spec), File::ours(host.path(PATH), FILE.to_owned())])
}

/// A spec that calls the hook.
fn with_hook(spec: &[u8], hook: &Hook) -> Result<String, serde_json::Error> {
    let mut spec: serde_json::Map<String, serde_json::Value> = json::from_slice(spec)?;
    let entry: serde_json::Value = serde_json::from_str(hooks_d::entry(hook)?.get())?;
    spec.insert("hooks".to_owned(), serde_json::json!({ hooks_d::STAGE: [entry] }));
    Ok(format!("{:#}\n", serde_json::Value::Object(spec)))
}

/// The settings, if pods of some handler come to the hook.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let path = host.path(PATH);
    let settings = parsed_settings(host)?;
    let cri = cri(&settings);
    let runtimes = cri.and_then(|cri| cri.get("runtimes")).and_then(Value::as_table);
    let mut handlers = Vec::new();
    let (mut is_wide, mut is_by_name) = (false, false);
    for (name, runtime) in runtimes.into_iter().flatten() {
        let named = how_hook_is_named(&path, runtime)?;
        if named == Named::Not {
            continue;
        }
        is_by_name |= named == Named::ByName;
        let globs = pod_annotations(runtime);
        let passes = |key: &&str| globs.iter().any(|glob| glob.is_match(key));
        if !OURS.iter().all(passes) {
            return Err(EngineError::Annotations { path, handler: name.clone() });
        }
        is_wide |= OTHERS.iter().any(passes);
        handlers.push(name.as_str());
    }
    if handlers.is_empty() {
        return Ok(Calls::default());
    }
    let default = cri.and_then(|cri| cri.get("default_runtime_name")).and_then(Value::as_str);
    let caution = if is_wide {
        Some("pod_annotations let more through than run.secrets: grants must not look at what pods may set".to_owned())
    } else if is_by_name {
        Some("before 2.1, containerd forgets BinaryName for pods with a user namespace: use a base spec".to_owned())
    } else if default.is_some_and(|name| handlers.contains(&name)) {
        None
    } else {
        Some(format!("for pods whose RuntimeClass has the handler {} alone", handlers.join(" or ")))
    };
    Ok(Calls { by: vec![path], caution })
}

/// Whether a handler that calls the hook passes this annotation of a pod to its containers. Settings that cannot be read pass none.
pub(super) fn passes_pod_annotation(host: &Host, key: &str) -> bool {
    let path = host.path(PATH);
    let Ok(settings) = parsed_settings(host) else { return false };
    let runtimes = cri(&settings).and_then(|cri| cri.get("runtimes")).and_then(Value::as_table);
    let calls_hook = |runtime: &&Value| how_hook_is_named(&path, runtime).is_ok_and(|named| named != Named::Not);
    let mut globs = runtimes.into_iter().flat_map(Table::values).filter(calls_hook).flat_map(pod_annotations);
    globs.any(|glob| glob.is_match(key))
}

fn pod_annotations(runtime: &Value) -> Vec<Regex> {
    let globs = runtime.get("pod_annotations").and_then(Value::as_array).into_iter().flatten();
    globs.filter_map(|glob| regex(glob.as_str()?)).collect()
}

fn parsed_settings(host: &Host) -> Result<Table, EngineError> {
    let format =
        |error: toml::de::Error| EngineError::Format { path: host.path(PATH), reason: error.message().to_owned() };
    toml::from_str(&settings(host)?).map_err(format)
}

/// The settings of containerd's CRI plugin.
fn cri(settings: &Table) -> Option<&Value> {
    let plugins = settings.get("plugins").and_then(Value::as_table);
    PLUGINS.iter().find_map(|plugin| plugins?.get(*plugin)?.get("containerd"))
}

/// What containerd itself says of its settings, with all that they import; if it does not say anything, the file.
fn settings(host: &Host) -> Result<String, EngineError> {
    if host.root == Path::new("/") {
        let output = Command::new("containerd").args(["config", "dump"]).output();
        if let Some(text) = output.ok().filter(|output| output.status.success()).map(|output| output.stdout) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(read(&host.path(PATH))?.unwrap_or_default())
}

/// Whether a runtime's base spec has the hook, or the runtime is the wrapper.
fn how_hook_is_named(path: &Path, runtime: &Value) -> Result<Named, EngineError> {
    let string = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let spec = string(runtime.get("base_runtime_spec"));
    if let Some(text) = read(spec.as_ref())?.filter(|_| !spec.is_empty()) {
        let format = |error: serde_json::Error| EngineError::Format { path: (&spec).into(), reason: error.to_string() };
        if has_hook(&text).map_err(format)? {
            return Ok(Named::BySpec);
        }
    }
    let wrapper = string(runtime.get("options").and_then(|options| options.get("BinaryName")));
    if !is_wrapper(&wrapper) {
        return Ok(Named::Not);
    }
    hooks_d::require_program(path, wrapper.as_ref())?;
    Ok(Named::ByName)
}

/// How a runtime comes to call the hook.
#[derive(PartialEq)]
enum Named {
    BySpec,
    /// By the wrapper's name, which containerd may forget.
    ByName,
    Not,
}

/// Go's `path.Match`, as far as anyone uses it for annotations: `*` and `?` stand for anything but a slash.
fn regex(glob: &str) -> Option<Regex> {
    Regex::new(&format!("^{}$", regex::escape(glob).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Root, hook};

    /// A host with the shipped settings, changed, and their base spec.
    fn root(from: &str, to: &str) -> Root {
        let root = Root::new();
        let spec = root.host.path(BASE_SPEC);
        let text = FILE.replace(BASE_SPEC, spec.to_str().unwrap());
        assert!(text.contains(from), "{from}");
        root.write(PATH, &text.replace(from, to));
        let json = with_hook(br#"{"process":{"args":["sh"]},"hooks":null}"#, &hook()).unwrap();
        assert!(json.contains("\"sh\""));
        root.write(BASE_SPEC, &json);
        root
    }

    #[test]
    fn the_shipped_settings_call_the_hook_for_every_pod() {
        let root = root("", "");
        assert_eq!(calls(&root.host).unwrap(), Calls { by: vec![root.host.path(PATH)], caution: None });
        root.write(BASE_SPEC, r#"{"hooks":{"createRuntime":[{"path":"/x/other"}]}}"#);
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
        root.write(BASE_SPEC, "{");
        assert!(matches!(calls(&root.host), Err(EngineError::Format { .. })));
    }

    #[test]
    fn tells_what_does_not_come_to_the_hook() {
        let caution = |from: &str, to: &str| calls(&root(from, to).host).unwrap().caution.unwrap();
        assert!(caution("default_runtime_name = \"oci-secrets\"", "").contains("handler oci-secrets"));
        assert!(caution("\"run.secrets/*\"", "\"*\", \"run.secrets/*\"").contains("let more through"));
        let missing = root("\"*.run.secrets/*\", ", "");
        assert!(matches!(calls(&missing.host), Err(EngineError::Annotations { .. })));
        for other in ["[plugins.x]", ""] {
            let root = Root::new();
            root.write(PATH, other);
            assert_eq!(calls(&root.host).unwrap(), Calls::default());
        }
    }

    #[test]
    fn warns_of_a_wrapper_that_may_be_forgotten() {
        let root = root("base_runtime_spec", "options.BinaryName");
        let wrapper = root.program("oci-secrets-runtime");
        let text = std::fs::read_to_string(root.host.path(PATH)).unwrap();
        root.write(PATH, &text.replace(root.host.path(BASE_SPEC).to_str().unwrap(), &wrapper));
        assert!(calls(&root.host).unwrap().caution.unwrap().contains("forgets BinaryName"));
        std::fs::remove_file(wrapper).unwrap();
        assert!(matches!(calls(&root.host), Err(EngineError::Hook { .. })));
    }
}
