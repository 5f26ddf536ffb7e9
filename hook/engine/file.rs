//! Files that make an engine call the hook: what becomes of them.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::whole_file::{self, Existing};

/// A file as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: PathBuf,
    /// All of it; `None` if it shall not exist.
    pub content: Option<String>,
    /// Whether the content was made from what is there, so that the file may be replaced.
    pub is_merged: bool,
}

/// What became of a file, or would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Written,
    /// It is removed.
    Removed,
    /// It was like this before.
    Unchanged,
}

impl Change {
    /// A new file that is wholly ours.
    pub(super) fn new(path: PathBuf, content: String) -> Change {
        Change { path, content: Some(content), is_merged: false }
    }

    /// A file that keeps what others wrote there.
    pub(super) fn merged(path: PathBuf, content: Option<String>) -> Change {
        Change { path, content, is_merged: true }
    }

    /// What is there now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn before(&self) -> Result<Option<String>, InstallError> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// What [`Change::apply`] would do, as far as that is known before.
    ///
    /// # Errors
    /// When a file that is not ours is in its place.
    pub fn outcome(&self) -> Result<Outcome, InstallError> {
        let before = self.before()?;
        if before == self.content {
            return Ok(Outcome::Unchanged);
        }
        match &self.content {
            Some(_) if before.is_some() && !self.is_merged => Err(InstallError::Exists { path: self.path.clone() }),
            Some(_) => Ok(Outcome::Written),
            None => Ok(Outcome::Removed),
        }
    }

    /// Makes it so, wholly or not at all; a new file is readable by everyone. What others wrote is left alone.
    ///
    /// # Errors
    /// When a file that is not ours is in its place, or the kernel refuses.
    pub fn apply(&self) -> Result<Outcome, InstallError> {
        let outcome = self.outcome()?;
        match (&outcome, &self.content) {
            (Outcome::Unchanged, _) => {}
            (_, Some(content)) => {
                std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))
                    .and_then(|()| replace(&self.path, content.as_bytes()))
                    .map_err(|error| self.failed(error))?;
            }
            (_, None) => std::fs::remove_file(&self.path).map_err(|error| self.failed(error))?,
        }
        Ok(outcome)
    }

    fn failed(&self, error: io::Error) -> InstallError {
        InstallError::Write { path: self.path.clone(), errno: error.into() }
    }
}

/// Replaces a file atomically, with the same owner and mode; a new one belongs to the caller, and is readable by everyone.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    whole_file::write(path, content, Existing::Replace, |file| {
        let mode = match std::fs::metadata(path) {
            Ok(before) => {
                fchown(file, Some(before.uid()), Some(before.gid()))?;
                before.mode() & 0o7777
            }
            Err(error) if error.kind() == ErrorKind::NotFound => 0o644,
            Err(error) => return Err(error),
        };
        file.set_permissions(Permissions::from_mode(mode))
    })
}

/// Why a file was not written or removed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum InstallError {
    /// Something else is in its place.
    #[error("refusing to replace {}: it is not what would be written", .path.display())]
    Exists { path: PathBuf },
    /// A system call failed.
    #[error("cannot write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
}

impl Fault for InstallError {
    fn class(&self) -> Class {
        match self {
            InstallError::Exists { .. } => Class::Settings,
            InstallError::Write { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            InstallError::Exists { .. } => Some(
                "with `--diff` instead of `--write`, the difference is shown: merge it, or remove the file and install again"
                    .into(),
            ),
            InstallError::Write { errno, .. } if errno.is_denied() => {
                Some("files of the host are written as root: `sudo oci-secrets …`".into())
            }
            InstallError::Write { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn writes_a_file_once_and_leaves_what_others_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/cdi/oci-secrets.json");
        let file = Change::new(path.clone(), "{}\n".to_owned());
        assert_eq!(file.outcome().unwrap(), Outcome::Written);
        assert!(!path.exists());
        assert_eq!(file.apply().unwrap(), Outcome::Written);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(file.apply().unwrap(), Outcome::Unchanged);

        fs::write(&path, "of another").unwrap();
        assert!(matches!(file.apply(), Err(InstallError::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "of another");
        // It may hold what is not for everyone.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let merged = Change { is_merged: true, ..file };
        assert_eq!(merged.apply().unwrap(), Outcome::Written);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        let removed = Change { content: None, ..merged };
        assert_eq!((removed.outcome().unwrap(), path.exists()), (Outcome::Removed, true));
        assert_eq!((removed.apply().unwrap(), path.exists()), (Outcome::Removed, false));
        assert_eq!(removed.apply().unwrap(), Outcome::Unchanged);
    }
}
