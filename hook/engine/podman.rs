//! Podman, which calls the hooks of the directories that containers.conf names.
//!
//! See [containers.conf(5)](https://github.com/containers/common/blob/main/docs/containers.conf.5.md).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::host::{files_in, read};
use super::{Calls, EngineError, File, Hook, Host, hooks_d};

/// The files that make podman call the hook: for all users, or for one whose podman runs without root.
pub(super) fn files(host: &Host, hook: &Hook) -> Vec<File> {
    let Some(user) = &host.user else { return hooks_d::files(&host.path(hooks_d::DIRECTORY), hook) };
    let directory = user.join("containers/oci/hooks.d");
    // An array of strings is the same in TOML.
    let directories = serde_json::json!([hooks_d::DIRECTORY, directory.to_string_lossy()]);
    let settings = format!(
        "# Where podman looks for hooks: its own directory, and this user's.\n[engine]\nhooks_dir = {directories}\n"
    );
    let settings = File::ours(user.join("containers/containers.conf.d/90-oci-secrets.conf"), settings);
    hooks_d::files(&directory, hook).into_iter().chain([settings]).collect()
}

/// The files by which podman will call the hook.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    let mut directories = vec![host.path(hooks_d::DIRECTORY)];
    for path in configuration(host)? {
        if let Some(named) = hooks_dir(&path)? {
            directories = named.iter().map(|directory| host.path(directory)).collect();
        }
    }
    hooks_d::calls(&directories)
}

/// The files that are read for containers.conf, each of which overrides those before it.
fn configuration(host: &Host) -> Result<Vec<PathBuf>, EngineError> {
    let mut paths =
        vec![host.path("/usr/share/containers/containers.conf"), host.path("/etc/containers/containers.conf")];
    paths.extend(files_in(&host.path("/etc/containers/containers.conf.d"), "conf")?);
    if let Some(user) = &host.user {
        paths.push(user.join("containers/containers.conf"));
        paths.extend(files_in(&user.join("containers/containers.conf.d"), "conf")?);
    }
    Ok(paths)
}

/// What a file says of hook directories, if it says anything.
fn hooks_dir(path: &Path) -> Result<Option<Vec<String>>, EngineError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        engine: Section,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Section {
        hooks_dir: Option<Vec<String>>,
    }
    let Some(text) = read(path)? else { return Ok(None) };
    let format = |error: toml::de::Error| EngineError::Format { path: path.into(), reason: error.message().to_owned() };
    Ok(toml::from_str::<Configuration>(&text).map_err(format)?.engine.hooks_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions, create_dir_all};
    use std::os::unix::fs::PermissionsExt;

    /// A host whose hook can be called, with a user.
    fn host() -> (tempfile::TempDir, Host, Hook) {
        let root = tempfile::tempdir().unwrap();
        let hook = Hook { path: root.path().join("oci-secrets-hook"), settings: None };
        fs::write(&hook.path, "").unwrap();
        fs::set_permissions(&hook.path, Permissions::from_mode(0o755)).unwrap();
        let user = Some(root.path().join("home/.config"));
        let host = Host { root: root.path().to_owned(), user };
        (root, host, hook)
    }

    fn write(path: &Path, text: &str) {
        create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn calls_what_was_installed_for_all_users() {
        let (_root, host, hook) = host();
        let host = Host { user: None, ..host };
        assert_eq!(calls(&host).unwrap(), Calls::default());
        files(&host, &hook).iter().for_each(|file| assert!(file.write().is_ok()));
        assert_eq!(calls(&host).unwrap().by, [host.path("/usr/share/containers/oci/hooks.d/90-oci-secrets.json")]);
    }

    #[test]
    fn calls_what_a_user_installed() {
        let (_root, host, hook) = host();
        for file in files(&host, &hook) {
            file.write().unwrap();
        }
        let user = host.user.clone().unwrap();
        // What the file names is an absolute path already.
        let host = Host { root: PathBuf::from("/"), ..host };
        assert_eq!(calls(&host).unwrap().by, [user.join("containers/oci/hooks.d/90-oci-secrets.json")]);
    }

    #[test]
    fn another_hooks_dir_takes_the_place_of_the_usual_one() {
        let (_root, host, hook) = host();
        hooks_d::files(&host.path(hooks_d::DIRECTORY), &hook).iter().for_each(|file| assert!(file.write().is_ok()));
        let host = Host { user: None, ..host };
        let of_root = host.path("/etc/containers/containers.conf");
        write(&of_root, "[engine]\nhooks_dir = ['/etc/hooks']\n");
        assert_eq!(calls(&host).unwrap(), Calls::default());
        write(
            &host.path("/etc/containers/containers.conf.d/10.conf"),
            "[engine]\nhooks_dir = ['/usr/share/containers/oci/hooks.d']\n",
        );
        assert_eq!(calls(&host).unwrap().by.len(), 1);
        write(&of_root, "[engine\n");
        assert!(matches!(calls(&host), Err(EngineError::Format { .. })));
    }
}
