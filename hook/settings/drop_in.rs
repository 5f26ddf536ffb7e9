//! Drop-in files: `settings.d/*.toml` next to `settings.toml`, in which each role of a host adds its own grants and requests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{FileError, Grants, RequestSet, Settings, SettingsError, load};

/// What a drop-in file may contain. It cannot change where values come from, or which keys unseal them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DropIn {
    #[serde(rename = "grant")]
    grants: Grants,
    requests: BTreeMap<String, RequestSet>,
}

impl Settings {
    /// Adds the drop-in files of a settings file, in the order of their names.
    ///
    /// # Errors
    /// As for the settings file itself; and if a name of a grant or a set of requests is in two files.
    pub(super) fn add_drop_ins(&mut self, path: &Path) -> Result<(), SettingsError> {
        let directory = path.with_extension("d");
        if directory == path {
            return Ok(());
        }
        for file in files(&directory)? {
            let drop_in: DropIn = load(&file)?;
            let twice = |what| SettingsError::Twice { path: file.clone(), what };
            self.grants.append(drop_in.grants).map_err(|name| twice(format!("the grant \"{name}\"")))?;
            for (name, requests) in drop_in.requests {
                if self.requests.contains_key(&name) {
                    return Err(twice(format!("[requests.{name}]")));
                }
                self.requests.insert(name, requests);
            }
        }
        Ok(())
    }
}

/// The drop-in files of a directory, none if there is no such directory. Who may write to them is checked when they are read.
fn files(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let cannot_open = |error: io::Error| FileError::Open { path: directory.into(), errno: error.into() };
    let entries = match fs::read_dir(directory) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot_open)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut files = paths.map_err(cannot_open)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    const MAIN: &str = "[[grant]]\nname = \"main\"\nreferences = [\"op://Main/*\"]\n";

    /// The settings of a directory with these drop-in files.
    fn load_with(drop_ins: &[(&str, &str)]) -> (TempDir, Result<Settings, SettingsError>) {
        let directory = TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        };
        write("settings.toml", MAIN);
        fs::create_dir(directory.path().join("settings.d")).unwrap();
        fs::set_permissions(directory.path().join("settings.d"), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in drop_ins {
            write(&format!("settings.d/{name}"), text);
        }
        let loaded = Settings::load(&directory.path().join("settings.toml"));
        (directory, loaded)
    }

    fn grant(name: &str) -> String {
        format!("[[grant]]\nname = \"{name}\"\nreferences = [\"op://{name}/*\"]\n")
    }

    #[test]
    fn adds_grants_and_requests_in_the_order_of_their_file_names() {
        let requests = "[requests.billing]\n\"run.secrets/db\" = \"op://v/i/f\"\n";
        let (_directory, loaded) = load_with(&[
            ("20-b.toml", &grant("b")),
            ("10-a.toml", &format!("{}{requests}", grant("a"))),
            ("10-a.toml.rpmsave", "not TOML"),
        ]);
        let settings = loaded.unwrap();
        let vaults: Vec<_> =
            settings.grants.iter().flat_map(|grant| grant.references()).map(ToString::to_string).collect();
        assert_eq!(vaults, ["op://Main/*", "op://a/*", "op://b/*"]);
        assert!(settings.requests.contains_key("billing"));
    }

    #[test]
    fn takes_nothing_but_grants_and_requests_and_names_the_file() {
        for key in
            ["keks = [\"local-kek:trial\"]", "[connect]\nurl = \"https://h\"", "[deliver]\nplaintext = \"allow\""]
        {
            let (directory, loaded) = load_with(&[("10-a.toml", key)]);
            let error = loaded.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("cannot parse {}", directory.path().join("settings.d/10-a.toml").display())
            );
        }
    }

    #[test]
    fn refuses_a_name_that_is_in_two_files() {
        for name in ["main", "a"] {
            let (_directory, loaded) = load_with(&[("10-a.toml", &grant("a")), ("20-b.toml", &grant(name))]);
            let error = loaded.unwrap_err().to_string();
            assert!(error.contains("20-b.toml") && error.contains(&format!("the grant \"{name}\"")), "{error}");
        }
    }

    #[test]
    fn refuses_a_drop_in_file_or_directory_that_others_can_write() {
        for (path, mode) in [("settings.d/10-a.toml", 0o666), ("settings.d", 0o777)] {
            let (directory, _) = load_with(&[("10-a.toml", &grant("a"))]);
            fs::set_permissions(directory.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
            let refused = Settings::load(&directory.path().join("settings.toml"));
            assert!(matches!(refused, Err(SettingsError::File(_))), "{path}");
        }
    }

    #[test]
    fn refuses_a_directory_that_cannot_be_read() {
        let (directory, _) = load_with(&[]);
        let drop_ins = directory.path().join("settings.d");
        fs::remove_dir(&drop_ins).unwrap();
        fs::write(&drop_ins, "").unwrap();
        assert!(matches!(Settings::load(&directory.path().join("settings.toml")), Err(SettingsError::File(_))));
    }
}
