//! containerd, which takes the wrapper for a runtime, or a base spec with the hook in it, and passes on what its settings name.
//!
//! See [the CRI plugin's settings](https://github.com/containerd/containerd/blob/main/docs/cri/config.md).

use std::path::Path;
use std::process::Command;

use regex::Regex;
use toml::{Table, Value};

use super::{Calls, EngineError, File, Hook, Host, hooks_d, is_wrapper, read};
use crate::engine::bundle::has_hook;

/// As it is shipped.
const FILE: &str = include_str!("../../config/containerd/config.toml");
const PATH: &str = "/etc/containerd/config.toml";

/// Where the settings of the CRI are, in containerd 1 and in containerd 2.
const PLUGINS: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];

/// Annotations that have to come through, and those that pods must not be able to set: what grants look at.
const OURS: [&str; 3] = ["run.secrets/x", "app.run.secrets/x", "run.secrets.owner"];
const OTHERS: [&str; 3] = ["team", "example.com/team", "io.kubernetes.cri.sandbox-namespace"];

/// The file that makes the wrapper the default runtime of pods. It takes no arguments.
pub(super) fn files(host: &Host, hook: &Hook) -> Result<Vec<File>, EngineError> {
    match hook.wrapper_arguments().is_empty() {
        true => Ok(vec![File::ours(host.path(PATH), FILE.to_owned())]),
        false => Err(EngineError::NoArguments),
    }
}

/// The settings, if pods of some handler come to the hook.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let path = host.path(PATH);
    let format =
        |error: toml::de::Error| EngineError::Format { path: path.clone(), reason: error.message().to_owned() };
    let settings: Table = toml::from_str(&settings(host)?).map_err(format)?;
    let plugins = settings.get("plugins").and_then(Value::as_table);
    let cri = PLUGINS.iter().find_map(|plugin| plugins?.get(*plugin)?.get("containerd"));
    let runtimes = cri.and_then(|cri| cri.get("runtimes")).and_then(Value::as_table);
    let mut handlers = Vec::new();
    let mut is_wide = false;
    for (name, runtime) in runtimes.into_iter().flatten() {
        if !is_told_of_hook(&path, runtime)? {
            continue;
        }
        let globs = runtime.get("pod_annotations").and_then(Value::as_array).into_iter().flatten();
        let globs: Vec<Regex> = globs.filter_map(|glob| regex(glob.as_str()?)).collect();
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
    } else if default.is_some_and(|name| handlers.contains(&name)) {
        None
    } else {
        Some(format!("for pods whose RuntimeClass has the handler {} alone", handlers.join(" or ")))
    };
    Ok(Calls { by: vec![path], caution })
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

/// Whether a runtime is the wrapper, or its base spec has the hook.
fn is_told_of_hook(path: &Path, runtime: &Value) -> Result<bool, EngineError> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let wrapper = text(runtime.get("options").and_then(|options| options.get("BinaryName")));
    if is_wrapper(&wrapper) {
        hooks_d::require_program(path, wrapper.as_ref())?;
        return Ok(true);
    }
    let spec = text(runtime.get("base_runtime_spec"));
    match read(spec.as_ref())?.filter(|_| !spec.is_empty()) {
        Some(json) => {
            has_hook(&json).map_err(|error| EngineError::Format { path: spec.into(), reason: error.to_string() })
        }
        None => Ok(false),
    }
}

/// Go's `path.Match`, as far as anyone uses it for annotations: `*` and `?` stand for anything but a slash.
fn regex(glob: &str) -> Option<Regex> {
    Regex::new(&format!("^{}$", regex::escape(glob).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Root, hook};

    /// A host with the shipped settings, changed.
    fn root(from: &str, to: &str) -> Root {
        let root = Root::new();
        let wrapper = root.program("oci-secrets-runtime");
        let text = FILE.replace("/usr/bin/oci-secrets-runtime", &wrapper);
        assert!(text.contains(from), "{from}");
        root.write(PATH, &text.replace(from, to));
        root
    }

    #[test]
    fn the_shipped_settings_call_the_hook_for_every_pod() {
        let root = root("", "");
        assert_eq!(calls(&root.host).unwrap(), Calls { by: vec![root.host.path(PATH)], caution: None });
        assert_eq!(files(&root.host, &hook()).unwrap()[0].content, FILE);
        let elsewhere = Hook { path: "/opt/hook".into(), settings: None };
        assert!(matches!(files(&root.host, &elsewhere), Err(EngineError::NoArguments)));
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
    fn a_base_spec_with_the_hook_does_as_well() {
        let base = Root::new();
        let spec = base.host.path("/spec.json");
        let line = format!("base_runtime_spec = '{}'\n\n[plugins", spec.display());
        let root = root("BinaryName = ", "Other = ");
        let text = std::fs::read_to_string(root.host.path(PATH)).unwrap();
        let (before, after) = text.split_once("pod_annotations").unwrap();
        root.write(PATH, &format!("{before}{}pod_annotations{after}", line.trim_end_matches("\n[plugins")));
        base.write("/spec.json", r#"{"hooks":{"createRuntime":[{"path":"/x/other"}]}}"#);
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
        base.write("/spec.json", r#"{"hooks":{"createRuntime":[{"path":"/x/oci-secrets-hook"}]}}"#);
        assert_eq!(calls(&root.host).unwrap().by.len(), 1);
    }
}
