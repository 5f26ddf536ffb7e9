//! Files that are written whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// How the name of a file begins that is not complete. A process that is killed leaves it.
pub const INCOMPLETE: &str = ".tmp";

/// What becomes of a file that is in the place of the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is written.
    Keep,
    /// It is replaced.
    Replace,
}

/// Writes a file with mode 0600, unless `prepare` changes that, and returns when it is synced to disk. Readers see the file that was
/// there before, or all of the new one.
///
/// # Errors
/// The kernel refuses, or there is a file that is to be kept.
pub fn write(
    path: &Path,
    content: &[u8],
    existing: Existing,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let file = incomplete(path, content)?;
    prepare(file.as_file())?;
    file.as_file().sync_all()?;
    match existing {
        Existing::Keep => file.persist_noclobber(path),
        Existing::Replace => file.persist(path),
    }
    .map_err(|error| error.error)?;
    File::open(directory(path))?.sync_all()
}

/// Replaces a file that is of no use after a reboot, and waits for no disk: a crash of the host can leave it empty.
///
/// # Errors
/// The kernel refuses.
pub fn replace_until_reboot(path: &Path, content: &[u8]) -> io::Result<()> {
    incomplete(path, content)?.persist(path).map(drop).map_err(|error| error.error)
}

/// The content in a file of another name.
fn incomplete(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = Builder::new().prefix(INCOMPLETE).tempfile_in(directory(path))?;
    file.write_all(content)?;
    Ok(file)
}

/// The directory of a file.
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_a_file_or_keeps_it_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let write = |content: &[u8], existing| write(&path, content, existing, |_| Ok(()));
        write(b"one", Existing::Keep).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(b"two", Existing::Keep).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(b"two", Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        replace_until_reboot(&path, b"two, too").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two, too");
        let failed = super::write(&path, b"three", Existing::Replace, |_| Err(io::ErrorKind::Other.into()));
        assert!(failed.is_err() && fs::read(&path).unwrap() == b"two, too");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
