//! Docker, which knows no hooks: its runtime is the wrapper, which adds the hook.
//!
//! See [dockerd(8)](https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file).

use std::path::Path;

use serde_json::{Map, Value};

use super::host::is_wrapper;
use super::{Calls, Change, EngineError, Hook, Host, hooks_d};
use crate::json;

/// As it is shipped.
const FILE: &str = include_str!("../../config/docker/daemon.json");
const PATH: &str = "/etc/docker/daemon.json";

/// The runtime that is the wrapper, and the one that Docker takes by default.
const RUNTIME: &str = "oci-secrets";
const DEFAULT: &str = "runc";

/// What to do about another default runtime.
const REMEDY: &str =
    "make the wrapper the default by hand: `oci-secrets-runtime --runtime PATH` runs another runtime than runc";

/// The file that makes the wrapper the default runtime, and says everything that it says already.
pub(super) fn install(host: &Host, hook: &Hook) -> Result<Vec<Change>, EngineError> {
    let path = host.path(PATH);
    let ours = ours(&path, &hook.wrapper_arguments())?;
    let content = match host.read(&path)? {
        None => format!("{ours:#}\n"),
        Some(text) => {
            let before = parse(&path, &text)?;
            let mut after = before.clone();
            if let Some(object) =
                after.as_object_mut().filter(|object| object.get("default-runtime").is_some_and(|name| name == DEFAULT))
            {
                object.remove("default-runtime");
            }
            merge(&path, "", &mut after, ours)?;
            if after == before { text } else { format!("{after:#}\n") }
        }
    };
    Ok(vec![Change::merged(path, Some(content))])
}

/// The same file without what [`install`] added to it.
pub(super) fn uninstall(host: &Host) -> Result<Vec<Change>, EngineError> {
    let path = host.path(PATH);
    let Some(text) = host.read(&path)? else { return Ok(Vec::new()) };
    let mut settings = parse(&path, &text)?;
    let Some(object) = settings.as_object_mut() else { return Ok(Vec::new()) };
    let Some(runtimes) = object.get_mut("runtimes").and_then(Value::as_object_mut) else { return Ok(Vec::new()) };
    let Some(runtime) = runtimes.get(RUNTIME) else { return Ok(Vec::new()) };
    let arguments =
        runtime.get("runtimeArgs").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let arguments: Vec<String> = arguments.map(str::to_owned).collect();
    let is_of_install = arguments.iter().step_by(2).all(|option| ["--hook", "--settings"].contains(&option.as_str()));
    let ours = ours(&path, &arguments)?;
    if !is_of_install || ours.pointer("/runtimes/oci-secrets") != Some(runtime) {
        return Err(EngineError::Edited { path });
    }
    runtimes.remove(RUNTIME);
    if runtimes.is_empty() {
        object.remove("runtimes");
    }
    if object.get("default-runtime").is_some_and(|name| name == RUNTIME) {
        object.remove("default-runtime");
    }
    let content = (!object.is_empty()).then(|| format!("{settings:#}\n"));
    Ok(vec![Change::merged(path, content)])
}

/// What is shipped, for a wrapper with these arguments.
fn ours(path: &Path, arguments: &[String]) -> Result<Value, EngineError> {
    let mut shipped = parse(path, FILE)?;
    if let Some(Value::Object(runtime)) = shipped.pointer_mut("/runtimes/oci-secrets").filter(|_| !arguments.is_empty())
    {
        runtime.insert("runtimeArgs".to_owned(), arguments.into());
    }
    Ok(shipped)
}

/// The file, if it makes some runtime the wrapper.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let path = host.path(PATH);
    let Some(text) = host.read(&path)? else { return Ok(Calls::default()) };
    let settings = parse(&path, &text)?;
    let mut wrappers = Vec::new();
    for (name, runtime) in settings.get("runtimes").and_then(Value::as_object).into_iter().flatten() {
        let program = runtime.get("path").and_then(Value::as_str).unwrap_or_default();
        if is_wrapper(program) {
            hooks_d::require_wrapper(&path, program.as_ref())?;
            wrappers.push(name.as_str());
        }
    }
    let is_default =
        settings.get("default-runtime").and_then(Value::as_str).is_some_and(|name| wrappers.contains(&name));
    let caution = || format!("for containers that are started with --runtime {} alone", wrappers.join(" or "));
    let caution = (!is_default && !wrappers.is_empty()).then(caution);
    Ok(Calls { by: if wrappers.is_empty() { Vec::new() } else { vec![path] }, caution })
}

fn parse(path: &Path, text: &str) -> Result<Value, EngineError> {
    let settings: Result<Map<String, Value>, _> = json::from_str(text);
    settings.map(Value::Object).map_err(|error| EngineError::Format { path: path.into(), reason: error.to_string() })
}

/// Adds missing keys; a key with another value was set on purpose, and stays.
fn merge(path: &Path, key: &str, own: &mut Value, more: Value) -> Result<(), EngineError> {
    match (own, more) {
        (Value::Object(own), Value::Object(more)) => {
            for (name, value) in more {
                let key = format!("{key}/{name}");
                merge(path, &key, own.entry(name).or_insert(Value::Null), value)?;
            }
            Ok(())
        }
        (own @ Value::Null, more) => {
            *own = more;
            Ok(())
        }
        (own, more) if *own == more => Ok(()),
        _ => Err(EngineError::Taken { path: path.into(), key: key.trim_start_matches('/').into(), remedy: REMEDY }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Root, hook};
    use serde_json::json;

    fn settings(root: &Root) -> Value {
        serde_json::from_str(&std::fs::read_to_string(root.host.path(PATH)).unwrap()).unwrap()
    }

    fn install(root: &Root, hook: &Hook) -> Result<(), EngineError> {
        apply(&super::install(&root.host, hook)?);
        Ok(())
    }

    fn apply(changes: &[Change]) {
        changes.iter().for_each(|change| assert!(change.apply().is_ok()));
    }

    #[test]
    fn what_was_added_is_removed() {
        let root = Root::new();
        let elsewhere = Hook { path: "/opt/hook".into(), settings: Some("/opt/settings.toml".into()) };
        for hook in [hook(), elsewhere] {
            install(&root, &hook).unwrap();
            apply(&uninstall(&root.host).unwrap());
            assert!(!root.host.path(PATH).exists());
            for text in
                [r#"{"log-level":"warn","runtimes":{"other":{"path":"/bin/other"}}}"#, r#"{"runtimes":{},"x":1}"#]
            {
                root.write(PATH, text);
                install(&root, &hook).unwrap();
                apply(&uninstall(&root.host).unwrap());
                let before: Value = serde_json::from_str(&text.replace(r#""runtimes":{},"#, "")).unwrap();
                assert_eq!(settings(&root), before);
                assert!(uninstall(&root.host).unwrap().is_empty());
            }
            std::fs::remove_file(root.host.path(PATH)).unwrap();
        }
        root.write(
            PATH,
            r#"{"runtimes":{"oci-secrets":{"path":"/usr/bin/oci-secrets-runtime","runtimeArgs":["--requests","x"]}}}"#,
        );
        assert!(matches!(uninstall(&root.host), Err(EngineError::Edited { .. })));
    }

    #[test]
    fn takes_the_place_of_the_default_runtime_alone() {
        let root = Root::new();
        root.write(PATH, r#"{"default-runtime":"runc"}"#);
        install(&root, &hook()).unwrap();
        assert_eq!(settings(&root)["default-runtime"], RUNTIME);
    }

    #[test]
    fn the_wrapper_becomes_the_default_runtime_beside_what_is_there() {
        let root = Root::new();
        install(&root, &hook()).unwrap();
        assert_eq!(settings(&root), serde_json::from_str::<Value>(FILE).unwrap());

        root.write(PATH, r#"{"log-level":"warn","runtimes":{"other":{"path":"/bin/other"}}}"#);
        install(&root, &hook()).unwrap();
        let both =
            json!({ "other": { "path": "/bin/other" }, "oci-secrets": { "path": "/usr/bin/oci-secrets-runtime" } });
        assert_eq!(settings(&root), json!({ "log-level": "warn", "default-runtime": "oci-secrets", "runtimes": both }));
        let written = std::fs::read_to_string(root.host.path(PATH)).unwrap();
        install(&root, &hook()).unwrap();
        assert_eq!(std::fs::read_to_string(root.host.path(PATH)).unwrap(), written);
    }

    #[test]
    fn the_wrapper_gets_the_path_of_a_hook_elsewhere() {
        let root = Root::new();
        let elsewhere = Hook { path: "/opt/hook".into(), settings: Some("/opt/settings.toml".into()) };
        install(&root, &elsewhere).unwrap();
        let arguments = json!(["--hook", "/opt/hook", "--settings", "/opt/settings.toml"]);
        assert_eq!(settings(&root)["runtimes"]["oci-secrets"]["runtimeArgs"], arguments);
    }

    #[test]
    fn decisions_of_others_stand() {
        let root = Root::new();
        for text in
            [r#"{"default-runtime":"other"}"#, r#"{"runtimes":{"oci-secrets":{"path":"/x"}}}"#, r#"{"runtimes":[]}"#]
        {
            root.write(PATH, text);
            assert!(matches!(install(&root, &hook()), Err(EngineError::Taken { .. })), "{text}");
        }
        root.write(PATH, "[]");
        assert!(matches!(install(&root, &hook()), Err(EngineError::Format { .. })));
        assert!(matches!(calls(&root.host), Err(EngineError::Format { .. })));
    }

    #[test]
    fn tells_whether_a_runtime_is_the_wrapper() {
        let root = Root::new();
        let none = Calls::default();
        assert_eq!(calls(&root.host).unwrap(), none);
        root.write(PATH, r#"{"runtimes":{"runc":{"path":"/usr/bin/runc"}}}"#);
        assert_eq!(calls(&root.host).unwrap(), none);
        let wrapper = root.program("oci-secrets-runtime");
        let runtimes = json!({ "oci-secrets": { "path": wrapper } });
        root.write(PATH, &json!({ "runtimes": runtimes }).to_string());
        let found = calls(&root.host).unwrap();
        assert_eq!(found.by, [root.host.path(PATH)]);
        assert!(found.caution.unwrap().contains("--runtime oci-secrets"));
        root.write(PATH, &json!({ "default-runtime": "oci-secrets", "runtimes": runtimes }).to_string());
        assert_eq!(calls(&root.host).unwrap().caution, None);
        std::fs::remove_file(wrapper).unwrap();
        assert!(matches!(calls(&root.host), Err(EngineError::Wrapper { .. })));
    }
}
