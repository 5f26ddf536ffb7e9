//! Directories of hook files, as podman and CRI-O read them.
//!
//! See [oci-hooks(5)](https://github.com/containers/common/blob/main/pkg/hooks/docs/oci-hooks.5.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Calls, Change, EngineError, HOOK_PATH, Hook, Host};
use crate::container::{CHECK_ANNOTATIONS, HOOK_NAME, is_hook};
use crate::json;
use crate::settings::file;

/// Where engines look for hooks by default.
pub(super) const DIRECTORY: &str = "/usr/share/containers/oci/hooks.d";

/// Where the packages have these files; `packaging/hook/register` copies them to [`DIRECTORY`].
const PACKAGED: &str = "/usr/share/oci-secrets/hooks.d";

/// As it is shipped. Engines call hooks in the order of their files' names: this one late.
const FILE: &str = include_str!("../../config/hooks.d/90-oci-secrets.json");
const FILE_NAME: &str = "90-oci-secrets.json";

/// The same hook, for containers with a reference under a key that [`FILE`] does not match: it only refuses them.
const CHECK: &str = include_str!("../../config/hooks.d/91-oci-secrets-check.json");
const CHECK_NAME: &str = "91-oci-secrets-check.json";

/// What `check` reports if no file calls the hook for such containers.
const NO_CHECK: &str = "references under a mistyped key are not noticed: `oci-secrets install` writes a second file";

/// The stage at which the container's mounts exist and its process does not yet run.
pub(super) const STAGE: &str = "createRuntime";

/// Annotations for which the hook must be called: every spelling of ours, wrong ones too.
const ANNOTATIONS: [&str; 4] = ["run.secrets/x", "app.run.secrets/x", "run.secrets.owner", "Run.Secrets/x"];

/// The files that make an engine call the hook.
pub(super) fn files(directory: &Path, hook: &Hook) -> Vec<Change> {
    let file = |name: &str, shipped| Change::new(directory.join(name), content(shipped, hook));
    vec![file(FILE_NAME, FILE), file(CHECK_NAME, CHECK)]
}

/// The removal of the files that [`files`] wrote into a directory, for whatever hook, in the order in which they are to be removed.
///
/// A package writes the same files, and only its removal replaces the hook by a program that refuses containers.
pub(super) fn removals(host: &Host, directory: &Path) -> Result<Vec<Change>, EngineError> {
    let mut removals = Vec::new();
    for (name, shipped) in [(CHECK_NAME, CHECK), (FILE_NAME, FILE)] {
        let path = directory.join(name);
        let Some(text) = host.read(&path)? else { continue };
        if directory == host.path(DIRECTORY) && host.read(&host.path(PACKAGED).join(name))?.is_some() {
            return Err(EngineError::Packaged { path });
        }
        match shipped_for(&text).filter(|hook| content(shipped, hook) == text) {
            Some(_) => removals.push(Change::merged(path, None)),
            None => return Err(EngineError::Edited { path }),
        }
    }
    Ok(removals)
}

/// The hook that a file calls, if it calls ours.
fn shipped_for(text: &str) -> Option<Hook> {
    let Entry { hook: Called { path, args }, .. } = json::from_str(text).ok()?;
    is_hook(&path).then(|| Hook { settings: settings(&args), path })
}

/// The settings that these arguments name.
pub(super) fn settings(arguments: &[String]) -> Option<PathBuf> {
    arguments.iter().skip_while(|argument| *argument != "--settings").nth(1).map(PathBuf::from)
}

/// A shipped file, for a hook that may be elsewhere or have other settings.
pub(super) fn content(shipped: &str, hook: &Hook) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let mut arguments = format!("\"{HOOK_NAME}\"");
    if let Some(settings) = &hook.settings {
        arguments.push_str(&format!(", \"--settings\", {}", quoted(settings)));
    }
    shipped
        .replace(&format!("\"{HOOK_PATH}\""), &quoted(&hook.path))
        .replace(&format!("[\"{HOOK_NAME}\"]"), &format!("[{arguments}]"))
}

/// The hook as a spec lists it, among the hooks of a stage.
pub(super) fn entry(hook: &Hook) -> Result<Box<RawValue>, serde_json::Error> {
    #[derive(Deserialize)]
    struct File {
        hook: Box<RawValue>,
    }
    serde_json::from_str::<File>(&content(FILE, hook)).map(|file| file.hook)
}

/// The files that call the hook, and that an engine which reads these directories finds: of several with the same name the last.
pub(super) fn calls(host: &Host, directories: &[PathBuf]) -> Result<Calls, EngineError> {
    let mut files = BTreeMap::new();
    for directory in directories {
        let found = host.files_in(directory, "json")?;
        files.extend(found.into_iter().map(|path| (path.file_name().map(ToOwned::to_owned), path)));
    }
    let (mut by, mut is_checked) = (Vec::new(), false);
    for path in files.into_values() {
        match call(host, &path)? {
            Some(Call::Deliver) => by.push(path),
            Some(Call::Check) => is_checked = true,
            None => {}
        }
    }
    let caution = match by.as_slice() {
        [_] if !is_checked => Some(NO_CHECK.to_owned()),
        [_, _, ..] => Some("the hook is called once for each of these files: keep one".to_owned()),
        _ => None,
    };
    Ok(Calls { by, caution })
}

/// What a file calls the hook for.
#[derive(Debug, PartialEq)]
enum Call {
    Deliver,
    Check,
}

/// What a file calls the hook for, if it does; an error if it should and cannot.
fn call(host: &Host, path: &Path) -> Result<Option<Call>, EngineError> {
    let Some(text) = host.read(path)? else { return Ok(None) };
    let format = |reason: String| EngineError::Format { path: path.into(), reason };
    let entry: Entry = json::from_str(&text).map_err(|error| format(error.to_string()))?;
    if !is_hook(&entry.hook.path) {
        return Ok(None);
    }
    require_program(path, &entry.hook.path)?;
    if entry.stages != [STAGE] {
        return Err(EngineError::Stage { path: path.into(), found: entry.stages.join(", ") });
    }
    if entry.hook.args.iter().any(|argument| argument == CHECK_ANNOTATIONS) {
        return Ok(Some(Call::Check));
    }
    let expressions: Result<Vec<Regex>, _> = entry.when.annotations.keys().map(|key| Regex::new(key)).collect();
    let expressions = expressions.map_err(|error| format(error.to_string()))?;
    let matches = |key: &str| !expressions.is_empty() && expressions.iter().all(|expression| expression.is_match(key));
    if entry.when.always != Some(true) && !ANNOTATIONS.iter().all(|key| matches(key)) {
        return Err(EngineError::When { path: path.into() });
    }
    Ok(Some(Call::Deliver))
}

/// Checks that a program that a file names can be run, and that no other user can replace it.
pub(super) fn require_program(named_by: &Path, program: &Path) -> Result<(), EngineError> {
    file::require_program(program).map_err(|source| EngineError::Hook { path: named_by.into(), source })
}

/// The same for the wrapper.
pub(super) fn require_wrapper(named_by: &Path, program: &Path) -> Result<(), EngineError> {
    file::require_program(program).map_err(|source| EngineError::Wrapper { path: named_by.into(), source })
}

/// What is read of a file.
#[derive(Deserialize)]
struct Entry {
    hook: Called,
    #[serde(default)]
    when: When,
    #[serde(default)]
    stages: Vec<String>,
}

#[derive(Deserialize)]
struct Called {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Default, Deserialize)]
struct When {
    always: Option<bool>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::FileError;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    /// A directory with a hook that can be called.
    fn directory() -> (tempfile::TempDir, Hook) {
        let directory = tempfile::tempdir().unwrap();
        let hook = Hook { path: directory.path().join(HOOK_NAME), settings: None };
        fs::write(&hook.path, "").unwrap();
        fs::set_permissions(&hook.path, Permissions::from_mode(0o755)).unwrap();
        (directory, hook)
    }

    fn calls_of(directory: &Path) -> Result<Vec<PathBuf>, EngineError> {
        called(&[PathBuf::from("/nowhere"), directory.to_owned()]).map(|calls| calls.by)
    }

    fn called(directories: &[PathBuf]) -> Result<Calls, EngineError> {
        calls(&Host::below("/".into()), directories)
    }

    /// The first file.
    fn file(directory: &Path, hook: &Hook) -> Change {
        files(directory, hook).remove(0)
    }

    fn text(file: &Change) -> &str {
        file.content.as_deref().unwrap()
    }

    #[test]
    fn removes_what_was_written_for_any_hook_and_nothing_else() {
        let (directory, hook) = directory();
        let host = Host::below("/".into());
        let there =
            || removals(&host, directory.path()).map(|all| all.into_iter().map(|one| one.path).collect::<Vec<_>>());
        assert!(there().unwrap().is_empty());
        let written = files(directory.path(), &Hook { settings: Some("/a \"b\"/settings.toml".into()), ..hook });
        written.iter().for_each(|file| assert!(file.apply().is_ok()));
        // Until the last one is gone, containers get their secrets.
        assert_eq!(there().unwrap(), [CHECK_NAME, FILE_NAME].map(|name| directory.path().join(name)));
        fs::write(&written[0].path, text(&written[0]).replace("30", "31")).unwrap();
        assert!(matches!(there(), Err(EngineError::Edited { .. })));
    }

    #[test]
    fn leaves_the_files_of_a_package_to_the_package_manager() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path().into());
        let hook = Hook { path: HOOK_PATH.into(), settings: None };
        for directory in [DIRECTORY, PACKAGED, "/home/alice"].map(|directory| host.path(directory)) {
            files(&directory, &hook).iter().for_each(|file| assert!(file.apply().is_ok()));
        }
        assert!(matches!(removals(&host, &host.path(DIRECTORY)), Err(EngineError::Packaged { .. })));
        // A user's own files are not of the package.
        assert_eq!(removals(&host, &host.path("/home/alice")).unwrap().len(), 2);
        fs::remove_dir_all(host.path(PACKAGED)).unwrap();
        assert_eq!(removals(&host, &host.path(DIRECTORY)).unwrap().len(), 2);
    }

    #[test]
    fn the_shipped_file_calls_the_hook_of_its_argument() {
        let (directory, hook) = directory();
        assert_eq!(calls_of(directory.path()).unwrap(), Vec::<PathBuf>::new());
        let settings = Some(PathBuf::from("/home/with \"quotes\"/settings.toml"));
        let file = file(directory.path(), &Hook { settings, ..hook.clone() });
        file.apply().unwrap();
        let value: serde_json::Value = serde_json::from_str(text(&file)).unwrap();
        let arguments = serde_json::json!([HOOK_NAME, "--settings", "/home/with \"quotes\"/settings.toml"]);
        assert_eq!((&value["hook"]["args"], value["hook"]["path"].as_str()), (&arguments, hook.path.to_str()));
        assert_eq!(calls_of(directory.path()).unwrap(), [file.path]);
        assert_eq!(content(FILE, &Hook { path: HOOK_PATH.into(), settings: None }), FILE);
    }

    #[test]
    fn the_second_file_calls_the_hook_for_references_under_any_key() {
        let (directory, hook) = directory();
        let [deliver, check] = &files(directory.path(), &hook)[..] else { panic!() };
        deliver.apply().unwrap();
        assert_eq!(called(&[directory.path().to_owned()]).unwrap().caution.as_deref(), Some(NO_CHECK));
        check.apply().unwrap();
        let once = Calls { by: vec![deliver.path.clone()], caution: None };
        assert_eq!(called(&[directory.path().to_owned()]).unwrap(), once);
        fs::write(directory.path().join("10-other.json"), text(deliver)).unwrap();
        let twice = called(&[directory.path().to_owned()]).unwrap();
        assert!(twice.by.len() == 2 && twice.caution.unwrap().contains("keep one"));
        assert_eq!(content(CHECK, &Hook { path: HOOK_PATH.into(), settings: None }), CHECK);
    }

    #[test]
    fn a_file_of_the_same_name_in_a_later_directory_counts() {
        let (directory, hook) = directory();
        let later = tempfile::tempdir().unwrap();
        file(directory.path(), &hook).apply().unwrap();
        fs::write(later.path().join(FILE_NAME), r#"{"version":"1.0.0","hook":{"path":"/bin/true"},"stages":[]}"#)
            .unwrap();
        let both = [directory.path().to_owned(), later.path().to_owned()];
        assert_eq!(called(&both).unwrap(), Calls::default());
    }

    #[test]
    fn a_file_that_should_call_the_hook_and_cannot_is_an_error() {
        let (directory, hook) = directory();
        let written = |from: &str, to: &str| {
            let file = file(directory.path(), &hook);
            assert!(text(&file).contains(from), "{from}");
            fs::write(&file.path, text(&file).replace(from, to)).unwrap();
            calls_of(directory.path())
        };
        assert!(matches!(written("createRuntime", "prestart"), Err(EngineError::Stage { .. })));
        assert!(matches!(
            written("[\"createRuntime\"]", "[\"createRuntime\", \"poststop\"]"),
            Err(EngineError::Stage { .. })
        ));
        assert!(matches!(written("(?i)", "^"), Err(EngineError::When { .. })));
        assert!(matches!(written("(?i)", "("), Err(EngineError::Format { .. })));
        assert!(matches!(written("}", ""), Err(EngineError::Format { .. })));
        let none = written("\"annotations\": { \"(?i)\\\\brun[\\\\W_]*secrets?\\\\b\": \".*\" }", "");
        assert!(matches!(none, Err(EngineError::When { .. })), "{none:?}");
        assert!(written("\"annotations\"", "\"always\": true, \"annotations\"").is_ok());

        let hook_error = |error| match error {
            Err(EngineError::Hook { source, .. }) => source,
            other => panic!("{other:?}"),
        };
        fs::set_permissions(&hook.path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(hook_error(calls_of(directory.path())), FileError::NotExecutable { .. }));
        fs::set_permissions(&hook.path, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(hook_error(calls_of(directory.path())), FileError::Writable { .. }));
        fs::remove_file(&hook.path).unwrap();
        assert!(matches!(hook_error(calls_of(directory.path())), FileError::Open { .. }));
    }
}
