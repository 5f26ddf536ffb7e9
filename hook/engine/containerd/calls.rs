//! Which pods come to the hook.

use std::path::Path;

use regex::Regex;
use toml::{Table, Value};

use super::super::bundle::has_hook;
use super::super::host::is_wrapper;
use super::super::{Calls, EngineError, Host, hooks_d};
use super::effective::{self, Effective, glob};

/// Annotations that have to come through, and those that pods must not be able to set: what grants look at.
const OURS: [&str; 3] = ["run.secrets/x", "app.run.secrets/x", "run.secrets.owner"];
const OTHERS: [&str; 3] = ["team", "example.com/team", "io.kubernetes.cri.sandbox-namespace"];

/// The settings, if pods of some handler come to the hook.
pub(in crate::engine) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let Effective { cri, named_by: path, .. } = effective::read(host)?;
    let runtimes = cri.get("runtimes").and_then(Value::as_table);
    let mut handlers = Vec::new();
    let (mut is_wide, mut is_by_name) = (false, false);
    for (name, runtime) in runtimes.into_iter().flatten() {
        let named = how_hook_is_named(host, &path, runtime)?;
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
    let default = cri.get("default_runtime_name").and_then(Value::as_str);
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
pub(in crate::engine) fn passes_pod_annotation(host: &Host, key: &str) -> bool {
    let Ok(Effective { cri, named_by, .. }) = effective::read(host) else { return false };
    let runtimes = cri.get("runtimes").and_then(Value::as_table);
    let calls_hook =
        |runtime: &&Value| how_hook_is_named(host, &named_by, runtime).is_ok_and(|named| named != Named::Not);
    let mut globs = runtimes.into_iter().flat_map(Table::values).filter(calls_hook).flat_map(pod_annotations);
    globs.any(|glob| glob.is_match(key))
}

fn pod_annotations(runtime: &Value) -> Vec<Regex> {
    let globs = runtime.get("pod_annotations").and_then(Value::as_array).into_iter().flatten();
    globs.filter_map(|text| glob(text.as_str()?)).collect()
}

/// Whether a runtime's base spec has the hook, or the runtime is the wrapper.
fn how_hook_is_named(host: &Host, path: &Path, runtime: &Value) -> Result<Named, EngineError> {
    let string = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let spec = string(runtime.get("base_runtime_spec"));
    let text = if spec.is_empty() { None } else { host.read(&host.path(&spec))? };
    if let Some(text) = text {
        let format = |error: serde_json::Error| EngineError::Format { path: (&spec).into(), reason: error.to_string() };
        if has_hook(&text).map_err(format)? {
            return Ok(Named::BySpec);
        }
    }
    let wrapper = string(runtime.get("options").and_then(|options| options.get("BinaryName")));
    if !is_wrapper(&wrapper) {
        return Ok(Named::Not);
    }
    hooks_d::require_wrapper(path, wrapper.as_ref())?;
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

#[cfg(test)]
mod tests {
    use super::super::super::Hook;
    use super::super::effective::{BASE_SPEC, PATH};
    use super::*;
    use crate::engine::testing::{Root, hook};

    /// As it is shipped.
    const FILE: &str = include_str!("../../../config/containerd/config.toml");

    /// A spec that calls this hook.
    fn with_hook(hook: &Hook) -> String {
        format!(r#"{{"hooks":{{"createRuntime":[{}]}}}}"#, hooks_d::entry(hook).unwrap().get())
    }

    /// A host with the shipped settings, changed, and their base spec.
    fn root(from: &str, to: &str) -> Root {
        let root = Root::new();
        let spec = root.host.path(BASE_SPEC);
        let text = FILE.replace(BASE_SPEC, spec.to_str().unwrap());
        assert!(text.contains(from), "{from}");
        root.write(PATH, &text.replace(from, to));
        root.write(BASE_SPEC, &with_hook(&hook()));
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
        assert!(matches!(calls(&root.host), Err(EngineError::Wrapper { .. })));
    }
}
