//! The hooks of a spec: where it calls ours.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::null_is_empty;

/// The file name of the hook, wherever it is installed.
pub const HOOK_NAME: &str = "oci-secrets-hook";

/// The option with which the hook delivers nothing, and refuses references in annotations of other keys.
pub const CHECK_ANNOTATIONS: &str = "--check-annotations";

/// Whether a program's path is that of the hook, wherever it is installed.
pub fn is_hook(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == HOOK_NAME)
}

/// The hooks of a spec, by stage.
///
/// See the [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    #[serde(deserialize_with = "null_is_empty")]
    prestart: Vec<Entry>,
    #[serde(deserialize_with = "null_is_empty")]
    create_runtime: Vec<Entry>,
    #[serde(deserialize_with = "null_is_empty")]
    create_container: Vec<Entry>,
    #[serde(deserialize_with = "null_is_empty")]
    start_container: Vec<Entry>,
    #[serde(deserialize_with = "null_is_empty")]
    poststart: Vec<Entry>,
    #[serde(deserialize_with = "null_is_empty")]
    poststop: Vec<Entry>,
}

/// One hook of a stage.
#[derive(Debug, Deserialize)]
struct Entry {
    path: PathBuf,
    #[serde(default, deserialize_with = "null_is_empty")]
    args: Vec<String>,
}

impl Hooks {
    /// The stages at which the hook is called to deliver, one for each call.
    pub fn deliveries(&self) -> Vec<&'static str> {
        let stages = [
            ("prestart", &self.prestart),
            ("createRuntime", &self.create_runtime),
            ("createContainer", &self.create_container),
            ("startContainer", &self.start_container),
            ("poststart", &self.poststart),
            ("poststop", &self.poststop),
        ];
        let calls = stages.iter().flat_map(|(stage, entries)| entries.iter().map(move |entry| (*stage, entry)));
        calls.filter(|(_, entry)| entry.delivers()).map(|(stage, _)| stage).collect()
    }
}

impl Entry {
    fn delivers(&self) -> bool {
        is_hook(&self.path) && !self.args.iter().any(|argument| argument == CHECK_ANNOTATIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_calls_that_deliver() {
        let ours = r#"{"path":"/usr/libexec/oci/hooks.d/oci-secrets-hook","args":["oci-secrets-hook"]}"#;
        let check = r#"{"path":"/x/oci-secrets-hook","args":["oci-secrets-hook","--check-annotations"]}"#;
        let other = r#"{"path":"/x/oci-secrets-hook.sh","args":null}"#;
        let deliveries = |json: &str| crate::json::from_str::<Hooks>(json).unwrap().deliveries();
        assert_eq!(deliveries(&format!(r#"{{"createRuntime":[{other},{ours},{check}]}}"#)), ["createRuntime"]);
        assert_eq!(
            deliveries(&format!(r#"{{"createRuntime":[{ours},{ours}],"prestart":[{ours}],"poststop":[{ours}]}}"#)),
            ["prestart", "createRuntime", "createRuntime", "poststop"]
        );
        assert!(deliveries(r#"{"prestart":null}"#).is_empty());
    }
}
