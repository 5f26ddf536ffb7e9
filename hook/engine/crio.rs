//! CRI-O, which reads the same directories of hook files as podman, and has settings of its own for them.
//!
//! See [crio.conf(5)](https://github.com/cri-o/cri-o/blob/main/docs/crio.conf.5.md).

use serde::Deserialize;

use super::host::{files_in, read};
use super::{Calls, EngineError, File, Hook, Host, hooks_d};

/// As it is shipped.
const FILE: &str = include_str!("../../config/crio/90-oci-secrets.conf");

/// The files that make CRI-O call the hook.
pub(super) fn files(host: &Host, hook: &Hook) -> Vec<File> {
    let settings = host.path("/etc/crio/crio.conf.d/90-oci-secrets.conf");
    let mut files = hooks_d::files(&host.path(hooks_d::DIRECTORY), hook);
    files.push(File::ours(settings, FILE.to_owned()));
    files
}

/// The files by which CRI-O will call the hook.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        crio: Crio,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Crio {
        runtime: Runtime,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Runtime {
        hooks_dir: Option<Vec<String>>,
    }
    let mut directories = vec![host.path(hooks_d::DIRECTORY)];
    let mut paths = vec![host.path("/etc/crio/crio.conf")];
    paths.extend(files_in(&host.path("/etc/crio/crio.conf.d"), "conf")?);
    for path in paths {
        let Some(text) = read(&path)? else { continue };
        let format = |error: toml::de::Error| EngineError::Format { path, reason: error.message().to_owned() };
        let found: Configuration = toml::from_str(&text).map_err(format)?;
        if let Some(named) = found.crio.runtime.hooks_dir {
            directories = named.iter().map(|directory| host.path(directory)).collect();
        }
    }
    hooks_d::calls(&directories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Root;

    #[test]
    fn calls_what_was_installed_until_another_file_names_another_directory() {
        let root = Root::new();
        let hook = Hook { path: root.program("oci-secrets-hook").into(), settings: None };
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
        for file in files(&root.host, &hook) {
            file.write().unwrap();
        }
        assert_eq!(calls(&root.host).unwrap().by.len(), 1);
        root.write("/etc/crio/crio.conf.d/99.conf", "[crio.runtime]\nhooks_dir = ['/elsewhere']\n");
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
    }
}
