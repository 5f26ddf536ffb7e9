//! `[local-kek]`: KEKs that are files, for trials and tests only.

use std::path::Path;

use serde::Deserialize;

use super::AbsolutePath;

const DIRECTORY: &str = "/etc/oci-secrets/keks";

/// Where the keys of `local-kek:<name>` are.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalKek {
    pub(super) directory: Option<AbsolutePath>,
}

impl LocalKek {
    /// Each key is the file `<name>` in it: a credential. By default it is `keks` next to the settings file.
    pub fn directory(&self) -> &Path {
        self.directory.as_deref().unwrap_or(Path::new(DIRECTORY))
    }
}
