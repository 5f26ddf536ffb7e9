//! A host of a test's own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{HOOK_PATH, Hook, Host};

/// A directory that is used as `/`, removed when it is dropped.
pub(in crate::engine) struct Root {
    directory: tempfile::TempDir,
    pub(in crate::engine) host: Host,
}

impl Root {
    pub(in crate::engine) fn new() -> Root {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::below(directory.path().to_owned());
        Root { directory, host }
    }

    pub(in crate::engine) fn write(&self, path: &str, text: &str) {
        let path = self.host.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes an executable program, and returns its path.
    pub(in crate::engine) fn program(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The hook in its usual place.
pub(in crate::engine) fn hook() -> Hook {
    Hook { path: HOOK_PATH.into(), settings: None }
}
