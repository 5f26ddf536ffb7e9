//! containers.conf, from all the places in which podman looks for it.
//!
//! See [containers.conf(5)](https://github.com/containers/container-libs/blob/main/common/docs/containers.conf.5.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;

use super::hooks_dir::HooksDir;
use super::{EngineError, Host};

/// The system's directory, and the administrator's.
const SYSTEM: &str = "/usr/share/containers";
const ADMINISTRATOR: &str = "/etc/containers";

/// The major version from which podman reads the file with the highest precedence only, and drop-in files from more directories.
const ONE_FILE_SINCE: u32 = 6;
/// The major version from which it reads the files of root's own configuration directory, too.
const OF_ROOT_SINCE: u32 = 5;

/// The directories of hook files that podman reads.
pub(super) fn in_effect(host: &Host) -> Result<HooksDir, EngineError> {
    let mut found = HooksDir::default();
    let mut appends = false;
    for File { path, named_by } in files(host)? {
        let Some(list) = hooks_dir(host, &path)? else { continue };
        let mut directories = Vec::new();
        for item in list {
            match item {
                Value::String(directory) => directories.push(directory.into()),
                // The attribute holds for the files that follow, too.
                Value::Table(attributes) => match attributes.get("append").and_then(Value::as_bool) {
                    Some(append) if attributes.len() == 1 => appends = append,
                    _ => return Err(not_a_directory(path)),
                },
                _ => return Err(not_a_directory(path)),
            }
        }
        if !appends {
            found.directories.clear();
        }
        found.directories.extend::<Vec<PathBuf>>(directories);
        found.named_by = Some(named_by);
    }
    Ok(found)
}

fn not_a_directory(path: PathBuf) -> EngineError {
    EngineError::Format {
        path, reason: "hooks_dir has an item that is neither a string nor { append = … }".to_owned()
    }
}

/// A file, and what makes podman read it.
struct File {
    path: PathBuf,
    named_by: String,
}

/// The files that podman reads, each of which overrides those before it.
fn files(host: &Host) -> Result<Vec<File>, EngineError> {
    let usual = |path: PathBuf| File { named_by: path.display().to_string(), path };
    let named = |path: &PathBuf, variable: &str| File {
        named_by: format!("{} of {variable} in the environment", path.display()),
        path: path.clone(),
    };
    let version = host.major("podman");
    let mut files: Vec<File> = match &host.containers_conf {
        Some(path) => vec![named(path, "CONTAINERS_CONF")],
        None if version.is_some_and(|version| version >= ONE_FILE_SINCE) => {
            first_and_drop_ins(host)?.into_iter().map(usual).collect()
        }
        None => every_file(host, version)?.into_iter().map(usual).collect(),
    };
    files.extend(host.containers_conf_override.iter().map(|path| named(path, "CONTAINERS_CONF_OVERRIDE")));
    Ok(files)
}

/// Before podman 6: every file there is.
fn every_file(host: &Host, version: Option<u32>) -> Result<Vec<PathBuf>, EngineError> {
    let administrator = host.path(ADMINISTRATOR);
    let mut paths = vec![host.path(SYSTEM).join("containers.conf"), administrator.join("containers.conf")];
    paths.extend(host.files_in(&administrator.join("containers.conf.d"), "conf")?);
    if host.user.is_some() {
        let drop_ins = administrator.join("containers.rootless.conf.d");
        paths.push(administrator.join("containers.rootless.conf"));
        paths.extend(host.files_in(&drop_ins, "conf")?);
        paths.extend(host.files_in(&drop_ins.join(host.uid.to_string()), "conf")?);
    }
    let of_root = host.of_root.as_ref().filter(|_| version.is_none_or(|version| version >= OF_ROOT_SINCE));
    if let Some(own) = host.user.as_ref().or(of_root) {
        paths.push(own.join("containers/containers.conf"));
        paths.extend(host.files_in(&own.join("containers/containers.conf.d"), "conf")?);
    }
    Ok(paths)
}

/// From podman 6: the caller's file, else the administrator's, else the system's; then drop-in files in the order of their names,
/// wherever they are. Of two with one name the one with the higher precedence counts.
fn first_and_drop_ins(host: &Host) -> Result<Vec<PathBuf>, EngineError> {
    let own = host.user.as_ref().or(host.of_root.as_ref()).map(|own| own.join("containers"));
    let places = [Some(host.path(SYSTEM)), Some(host.path(ADMINISTRATOR)), own.clone()];
    let mut main = None;
    let mut drop_ins = BTreeMap::new();
    for place in places.into_iter().flatten() {
        let file = place.join("containers.conf");
        if host.read(&file)?.is_some() {
            main = Some(file);
        }
        let mut directories = vec![place.join("containers.conf.d")];
        if Some(&place) != own.as_ref() {
            directories.extend(match host.user {
                None => vec![place.join("containers.rootful.conf.d")],
                Some(_) => {
                    let rootless = place.join("containers.rootless.conf.d");
                    vec![rootless.clone(), rootless.join(host.uid.to_string())]
                }
            });
        }
        for directory in directories {
            let found = host.files_in(&directory, "conf")?;
            drop_ins.extend(found.into_iter().map(|path| (path.file_name().map(ToOwned::to_owned), path)));
        }
    }
    Ok(main.into_iter().chain(drop_ins.into_values()).collect())
}

/// What a file says of hook directories, if it says anything.
fn hooks_dir(host: &Host, path: &Path) -> Result<Option<Vec<Value>>, EngineError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        engine: Section,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Section {
        hooks_dir: Option<Vec<Value>>,
    }
    let Some(text) = host.read(path)? else { return Ok(None) };
    let format = |error: toml::de::Error| EngineError::Format { path: path.into(), reason: error.message().to_owned() };
    Ok(toml::from_str::<Configuration>(&text).map_err(format)?.engine.hooks_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::hooks_d::DIRECTORY;
    use crate::engine::testing::Root;

    fn names(root: &Root, path: &str, directory: &str) {
        root.write(path, &format!("[engine]\nhooks_dir = [{directory}]\n"));
    }

    fn directories(host: &Host) -> Vec<String> {
        in_effect(host).unwrap().directories.iter().map(|path| path.display().to_string()).collect()
    }

    /// The host as a user sees it, with this version of podman.
    fn rootless(root: &Root, podman: u32) -> Host {
        let user = Some(root.host.path("/home/ada/.config"));
        Host { user, uid: 1000, versions: [("podman", podman)].into(), ..root.host.clone() }
    }

    #[test]
    fn each_file_overrides_those_before_it() {
        let root = Root::new();
        let host = rootless(&root, 5);
        assert_eq!(in_effect(&host).unwrap(), HooksDir::default());
        for path in [
            "/usr/share/containers/containers.conf",
            "/etc/containers/containers.conf",
            "/etc/containers/containers.conf.d/10-a.conf",
            "/etc/containers/containers.conf.d/20-b.conf",
            "/etc/containers/containers.rootless.conf",
            "/etc/containers/containers.rootless.conf.d/a.conf",
            "/etc/containers/containers.rootless.conf.d/1000/a.conf",
            "/home/ada/.config/containers/containers.conf",
            "/home/ada/.config/containers/containers.conf.d/10-a.conf",
        ] {
            names(&root, path, &format!("'{path}'"));
            let found = in_effect(&host).unwrap();
            assert_eq!(found.directories, [PathBuf::from(path)]);
            assert_eq!(found.named_by, Some(root.host.path(path).display().to_string()));
        }
        for unread in [
            "/usr/share/containers/containers.conf.d/99.conf",
            "/etc/containers/containers.rootful.conf.d/99.conf",
            "/etc/containers/containers.rootless.conf.d/1001/99.conf",
            "/etc/containers/containers.conf.d/99",
        ] {
            names(&root, unread, "'/unread'");
        }
        assert_eq!(directories(&host), ["/home/ada/.config/containers/containers.conf.d/10-a.conf"]);
        assert_eq!(directories(&root.host), ["/etc/containers/containers.conf.d/20-b.conf"]);
    }

    #[test]
    fn roots_own_files_count_from_podman_5() {
        let root = Root::new();
        names(&root, "/root/.config/containers/containers.conf", "'/of-root'");
        let of_root = Some(root.host.path("/root/.config"));
        for (podman, expected) in [(4, DIRECTORY), (5, "/of-root"), (6, "/of-root")] {
            let host = Host { of_root: of_root.clone(), versions: [("podman", podman)].into(), ..root.host.clone() };
            assert_eq!(directories(&host), [expected], "{podman}");
        }
    }

    #[test]
    fn podman_6_reads_one_main_file_and_drop_ins_by_name() {
        let root = Root::new();
        let host = rootless(&root, 6);
        names(&root, "/usr/share/containers/containers.conf", "'/system'");
        assert_eq!(directories(&host), ["/system"]);
        // Without the key: the system's file is not read any more.
        root.write("/etc/containers/containers.conf", "[engine]\n");
        assert_eq!(directories(&host), [DIRECTORY]);
        names(&root, "/home/ada/.config/containers/containers.conf.d/10.conf", "'/user'");
        assert_eq!(directories(&host), ["/user"]);
        names(&root, "/usr/share/containers/containers.rootless.conf.d/1000/20.conf", "'/later'");
        assert_eq!(directories(&host), ["/later"]);
        assert_eq!(directories(&Host { user: None, ..host.clone() }), [DIRECTORY]);
        names(&root, "/home/ada/.config/containers/containers.conf.d/20.conf", "'/user-20'");
        assert_eq!(directories(&host), ["/user-20"]);
        names(&root, "/etc/containers/containers.rootful.conf.d/10.conf", "'/rootful'");
        assert_eq!(directories(&Host { user: None, ..host }), ["/rootful"]);
    }

    #[test]
    fn an_attribute_appends_and_holds_for_later_files() {
        let root = Root::new();
        names(&root, "/etc/containers/containers.conf", "'/a', { append = true }");
        names(&root, "/etc/containers/containers.conf.d/1.conf", "'/b'");
        assert_eq!(directories(&root.host), [DIRECTORY, "/a", "/b"]);
        names(&root, "/etc/containers/containers.conf.d/1.conf", "'/b', { append = false }");
        assert_eq!(directories(&root.host), ["/b"]);
        for wrong in ["1", "{ append = 1 }", "{ prepend = true }"] {
            names(&root, "/etc/containers/containers.conf.d/1.conf", wrong);
            assert!(matches!(in_effect(&root.host), Err(EngineError::Format { .. })), "{wrong}");
        }
    }

    #[test]
    fn variables_of_the_environment_go_before_files() {
        let root = Root::new();
        names(&root, "/etc/containers/containers.conf", "'/a'");
        names(&root, "/instead", "'/b'");
        names(&root, "/last", "'/c'");
        let (instead, last) = (Some(root.host.path("/instead")), Some(root.host.path("/last")));
        let host = Host { containers_conf: instead, ..root.host.clone() };
        assert_eq!(directories(&host), ["/b"]);
        let host = Host { containers_conf_override: last, ..host };
        let HooksDir { directories, named_by } = in_effect(&host).unwrap();
        assert_eq!(directories, [PathBuf::from("/c")]);
        assert!(named_by.unwrap().ends_with("/last of CONTAINERS_CONF_OVERRIDE in the environment"));
    }
}
