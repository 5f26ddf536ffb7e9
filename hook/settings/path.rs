//! Absolute paths.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A path that does not depend on the working directory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct AbsolutePath(pub(super) PathBuf);

impl Deref for AbsolutePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<PathBuf> for AbsolutePath {
    type Error = RelativePath;

    fn try_from(path: PathBuf) -> Result<AbsolutePath, RelativePath> {
        if path.is_absolute() { Ok(AbsolutePath(path)) } else { Err(RelativePath) }
    }
}

/// A relative path where only an absolute one will do.
#[derive(Debug, thiserror::Error)]
#[error("expected an absolute path")]
pub struct RelativePath;
