//! Files that make an engine call the hook.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::whole_file::{self, Existing};

/// A file as it shall be.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// All of it.
    pub content: String,
    /// Whether the content has what was there before in it, so that the file may be replaced.
    pub is_merged: bool,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written.
    Now,
    /// It was there already, just so.
    Before,
}

impl File {
    /// A file that is wholly ours.
    pub(super) fn ours(path: PathBuf, content: String) -> File {
        File { path, content, is_merged: false }
    }

    /// Writes it, whole or not at all; a new one is readable by everyone. What others wrote is left alone.
    ///
    /// # Errors
    /// When a file that is not ours is in its place, or the kernel refuses.
    pub fn write(&self) -> Result<Written, InstallError> {
        let failed = |error: io::Error| InstallError::Write { path: self.path.clone(), errno: error.into() };
        match std::fs::read_to_string(&self.path) {
            Ok(found) if found == self.content => return Ok(Written::Before),
            Ok(_) if !self.is_merged => return Err(InstallError::Exists { path: self.path.clone() }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        replace(&self.path, self.content.as_bytes()).map_err(failed)?;
        Ok(Written::Now)
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0o644,
            Err(error) => return Err(error),
        };
        file.set_permissions(Permissions::from_mode(mode))
    })
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum InstallError {
    /// Another one is in its place.
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
        matches!(self, InstallError::Exists { .. }).then(|| {
            "without `--write`, `oci-secrets install` shows the content: merge it, or remove the file first".into()
        })
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
        let file = File::ours(path.clone(), "{}\n".to_owned());
        assert_eq!(file.write().unwrap(), Written::Now);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(file.write().unwrap(), Written::Before);

        fs::write(&path, "of another").unwrap();
        assert!(matches!(file.write(), Err(InstallError::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "of another");
        // It may hold what is not for everyone.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let merged = File { is_merged: true, ..file };
        assert_eq!(merged.write().unwrap(), Written::Now);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
