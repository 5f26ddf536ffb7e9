//! Bundles of engines that have no setting for hooks: the hook is added to `config.json` before the runtime reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use super::file::replace;
use super::{Hook, hooks_d};
use crate::container::{Annotations, Hooks, Requests, SpecError, null_is_empty, read_spec};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::json;

/// Makes the runtime call the hook for the container of a bundle, if its annotations, or those that are added, ask for anything.
///
/// An annotation of the container beats an added one of the same key. A spec that calls the hook already, at whatever stage,
/// gets no second call. All other members keep their bytes, and the file its owner and mode; it is replaced whole or not at all.
///
/// # Errors
/// When `config.json` cannot be read or replaced, or when parsers read it in different ways.
pub fn add_hook(bundle: &Path, hook: &Hook, added: &BTreeMap<String, String>) -> Result<(), BundleError> {
    let path = bundle.join("config.json");
    let text = read_spec(&path)?;
    let invalid = |source| BundleError::Json { path: path.clone(), source };
    let Known { annotations: own, hooks: called } = json::from_slice(&text).map_err(invalid)?;
    let missing = added.iter().filter(|(key, _)| !own.contains_key(*key));
    let missing: Vec<(String, String)> = missing.map(|(key, value)| (key.clone(), value.clone())).collect();
    let is_changed = !missing.is_empty();
    let annotations: BTreeMap<String, String> = own.into_iter().chain(missing).collect();
    let annotations = Annotations::new(annotations);
    // The hook reports what is wrong with a request.
    if matches!(Requests::from_annotations(&annotations), Ok(None)) {
        return Ok(());
    }
    let is_called = !called.deliveries().is_empty();
    if is_called && !is_changed {
        return Ok(());
    }
    let edit = || -> Result<Vec<u8>, serde_json::Error> {
        let mut spec: Fields = json::from_slice(&text)?;
        if !is_called {
            let mut hooks: Fields = field(&spec, "hooks")?;
            let mut at_stage: Vec<Box<RawValue>> = field(&hooks, hooks_d::STAGE)?;
            at_stage.push(hooks_d::entry(hook)?);
            hooks.insert(hooks_d::STAGE.to_owned(), to_raw_value(&at_stage)?);
            spec.insert("hooks".to_owned(), to_raw_value(&hooks)?);
        }
        spec.insert("annotations".to_owned(), to_raw_value(annotations.values())?);
        serde_json::to_vec(&spec)
    };
    let spec = edit().map_err(invalid)?;
    replace(&path, &spec).map_err(|error| BundleError::Write { path: path.clone(), errno: error.into() })
}

/// Whether a spec has the hook.
///
/// # Errors
/// When it is not JSON, or its hooks are not of the specification's form.
pub fn has_hook(spec: &str) -> Result<bool, serde_json::Error> {
    let Known { hooks, .. } = json::from_str(spec)?;
    Ok(!hooks.deliveries().is_empty())
}

/// What is read of a spec.
#[derive(Deserialize)]
struct Known {
    #[serde(default, deserialize_with = "null_is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    hooks: Hooks,
}

/// An object whose values stay as they are written.
type Fields = BTreeMap<String, Box<RawValue>>;

/// A field of an object, empty if it is absent or `null`.
fn field<T: Default + DeserializeOwned>(fields: &Fields, name: &str) -> Result<T, serde_json::Error> {
    let value = fields.get(name).map(|value| json::from_str::<Option<T>>(value.get())).transpose()?;
    Ok(value.flatten().unwrap_or_default())
}

/// Why a bundle did not get the hook.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum BundleError {
    /// There is no `config.json` that can be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Not JSON that every runtime reads alike, or a field of another type than the specification's.
    #[error("cannot parse {}", .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// A system call failed.
    #[error("cannot replace {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
}

impl Fault for BundleError {
    fn class(&self) -> Class {
        match self {
            BundleError::Spec(error) => error.class(),
            BundleError::Json { .. } => Class::Data,
            BundleError::Write { .. } => Class::Kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::HOOK_NAME;
    use serde_json::{Value, json};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const ANNOTATIONS: &str = r#""annotations":{"run.secrets/db":"op://v/i/f","other":"x"}"#;

    /// What a bundle's `config.json` becomes.
    fn edited(config: &str, added: &[(&str, &str)]) -> Result<String, BundleError> {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), config).unwrap();
        let added = added.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        add_hook(bundle.path(), &hook(), &added)?;
        assert_eq!(fs::read_dir(bundle.path()).unwrap().count(), 1);
        Ok(fs::read_to_string(bundle.path().join("config.json")).unwrap())
    }

    fn hook() -> Hook {
        Hook { path: "/opt/oci-secrets-hook".into(), settings: None }
    }

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn adds_the_hook_after_those_of_others_and_keeps_every_other_byte() {
        let rest = r#""ociVersion":"9.9","process":{"new":[1.50,18446744073709551615,"\u00e9"]},"linux":{"x":1e3}"#;
        let others = r#"{"path":"/usr/bin/other","args":["a"]}"#;
        let config =
            format!(r#"{{{rest},{ANNOTATIONS},"hooks":{{"prestart":[{others}],"createRuntime":[{others}]}}}}"#);
        let spec = edited(&config, &[]).unwrap();
        for part in [r#"{"new":[1.50,18446744073709551615,"\u00e9"]}"#, r#"{"x":1e3}"#, others] {
            assert!(spec.contains(part), "{part}: {spec}");
        }
        let spec = value(&spec);
        assert_eq!(spec["hooks"]["prestart"], value(&format!("[{others}]")));
        let hooks = spec["hooks"]["createRuntime"].as_array().unwrap();
        assert_eq!((hooks.len(), &hooks[0]), (2, &value(others)));
        let expected = json!({
            "path": "/opt/oci-secrets-hook", "args": ["oci-secrets-hook"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "timeout": 30,
        });
        assert_eq!(hooks[1], expected);
        assert_eq!(spec["annotations"], value(&format!("{{{ANNOTATIONS}}}"))["annotations"]);
        for absent in ["", r#","hooks":null"#, r#","hooks":{"createRuntime":null}"#] {
            let spec = value(&edited(&format!("{{{ANNOTATIONS}{absent}}}"), &[]).unwrap());
            assert_eq!(spec["hooks"]["createRuntime"], json!([expected]));
        }
    }

    #[test]
    fn adds_it_once() {
        let once = edited(&format!("{{{ANNOTATIONS}}}"), &[]).unwrap();
        assert_eq!(edited(&once, &[]).unwrap(), once);
        for stage in ["createRuntime", "prestart"] {
            let hooks = format!(r#""hooks":{{"{stage}":[{{"path":"/x/oci-secrets-hook"}}]}}"#);
            let elsewhere = format!("{{{ANNOTATIONS}, {hooks}}}");
            assert_eq!(edited(&elsewhere, &[]).unwrap(), elsewhere);
        }
    }

    #[test]
    fn refuses_a_spec_that_parsers_read_in_different_ways() {
        let ours = r#"{"run.secrets/db":"op://v/i/f"}"#;
        for config in [
            format!(r#"{{"annotations":{ours},"annotations":{{}}}}"#),
            format!(r#"{{"Annotations":{ours}}}"#),
            format!(r#"{{"annotations":{{}},"annotation\u017f":{ours}}}"#),
            r#"{"annotations":{"a":"op://v/i/f","a":"b"}}"#.to_owned(),
            format!(r#"{{"annotations":{ours},"Hooks":{{}}}}"#),
            format!(r#"{{"annotations":{ours},"hooks":{{"createruntime":[]}}}}"#),
            format!(r#"{{"annotations":{ours},"hooks":{{"createRuntime":[{{"path":"/a","Path":"/b"}}]}}}}"#),
            format!(r#"{{"annotations":{ours},"process":{{"args":[],"args":[]}}}}"#),
        ] {
            assert!(matches!(edited(&config, &[]), Err(BundleError::Json { .. })), "{config}");
        }
    }

    #[test]
    fn leaves_containers_alone_that_ask_for_nothing() {
        for config in ["{ }", r#"{"annotations":{"a":"b"}, "hooks":{}}"#, r#"{ "annotations":null }"#] {
            assert_eq!(edited(config, &[]).unwrap(), config);
        }
        // A typo must not start a container without its secrets.
        for typo in [r#""run.secret.s/db":"x","run.secrets.ownr":"1:1""#, r#""run.secret/db":"op://v/i/f""#] {
            let typo = edited(&format!(r#"{{"annotations":{{{typo}}}}}"#), &[]).unwrap();
            assert!(typo.contains(HOOK_NAME), "{typo}");
        }
    }

    #[test]
    fn added_annotations_do_not_replace_those_of_the_container() {
        let added = [("run.secrets/db", "op://v/i/set"), ("run.secrets/more", "op://v/i/more")];
        let spec = edited(&format!("{{{ANNOTATIONS}}}"), &added).unwrap();
        let annotations = json!({"run.secrets/db": "op://v/i/f", "run.secrets/more": "op://v/i/more", "other": "x"});
        assert_eq!(value(&spec)["annotations"], annotations);
        assert_eq!(edited(&spec, &added).unwrap(), spec);
        assert!(edited("{}", &added).unwrap().contains(HOOK_NAME));
    }

    #[test]
    fn keeps_owner_and_mode_and_replaces_nothing_that_it_does_not_understand() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        let edit = |config: &str| {
            fs::write(&path, config).unwrap();
            add_hook(bundle.path(), &hook(), &BTreeMap::new())
        };
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        edit(&format!("{{{ANNOTATIONS}}}")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        for config in ["", "[]", r#"{"annotations":[]}"#, r#"{"annotations":{"run.secrets/a":1}}"#] {
            assert!(matches!(edit(config), Err(BundleError::Json { .. })), "{config}");
            assert_eq!(fs::read_to_string(&path).unwrap(), config);
        }
        let broken = format!(r#"{{{ANNOTATIONS},"hooks":{{"createRuntime":{{}}}}}}"#);
        assert!(matches!(edit(&broken), Err(BundleError::Json { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(add_hook(bundle.path(), &hook(), &BTreeMap::new()), Err(BundleError::Spec(_))));
    }
}
