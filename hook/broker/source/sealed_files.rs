//! Sealed values on disk, as the ciphertext that they are: one file for each reference.
//!
//! A file is written whole or not at all: under another name first, synced, and then renamed. The directory is used only if no user but
//! root and our own could write to it or replace it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, fsync, openat, renameat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::hex::{hex, random_id};

/// The largest value that is stored.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

const FILE_BYTES_MAX: usize = VALUE_BYTES_MAX + 8 * 1024;

/// The most names that are read of a directory.
const NAMES_MAX: usize = 100_000;

const SCHEMA: u8 = 1;
/// How the names of files begin that are not complete.
const NEW: &str = ".new-";
const SUFFIX: &str = ".json";
const STICKY: u32 = 0o1000;
const WRITE_BY_OTHERS: u32 = 0o022;

/// A sealed value, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    schema: u8,
    /// The address of the source that returned it.
    pub source: String,
    /// The reference that it was fetched for.
    pub reference: String,
    /// The item's id, if the source reports it.
    pub item: Option<String>,
    /// The field's id, if the source reports it.
    #[serde(default)]
    pub field: Option<String>,
    /// The item's version, if the source reports it.
    pub item_version: Option<u64>,
    /// When it was fetched.
    pub fetched: Timestamp,
    /// The id of the start that it was fetched for.
    pub fetched_for: Option<String>,
    /// The ciphertext.
    pub value: String,
}

impl SealedFile {
    /// A value that was fetched now from this source.
    pub fn new(source: &str, reference: &str, value: &str) -> SealedFile {
        let (source, reference, value) = (source.to_owned(), reference.to_owned(), value.to_owned());
        let fetched = Timestamp::now();
        SealedFile {
            schema: SCHEMA,
            source,
            reference,
            item: None,
            field: None,
            item_version: None,
            fetched,
            fetched_for: None,
            value,
        }
    }
}

/// The directory of all files.
#[derive(Clone, Debug)]
pub struct SealedFiles(PathBuf);

impl SealedFiles {
    /// A directory, which may not exist yet.
    pub fn new(path: &Path) -> SealedFiles {
        SealedFiles(path.to_owned())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All values, in no particular order; none if there is no directory. A file that is not one of these is left out.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn list(&self) -> Result<Vec<SealedFile>, SealedFilesError> {
        let Some(directory) = self.open()? else { return Ok(Vec::new()) };
        let names = self.names(&directory)?;
        let complete = names.iter().filter(|name| name.ends_with(SUFFIX) && !name.starts_with(NEW));
        Ok(complete.filter_map(|name| read(&directory, name)).collect())
    }

    /// The value for a reference; none if there is none, or no directory.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn read(&self, reference: &str) -> Result<Option<SealedFile>, SealedFilesError> {
        let Some(directory) = self.open()? else { return Ok(None) };
        Ok(read(&directory, &name_of(reference)).filter(|file| file.reference == reference))
    }

    /// Writes a value in place of the one before. After a power failure either of them is there.
    ///
    /// # Errors
    /// The directory cannot be used, or the file cannot be written.
    pub fn write(&self, file: &SealedFile) -> Result<(), SealedFilesError> {
        let failed = |errno: Errno| SealedFilesError::Write { path: self.0.clone(), errno };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(|error| failed(error.into()))?;
        let Some(directory) = self.open()? else { return Err(failed(rustix::io::Errno::NOENT.into())) };
        let text = serde_json::to_vec(file).map_err(|error| failed(io::Error::from(error).into()))?;
        let new = format!("{NEW}{}", random_id());
        let written = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&directory, &new, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&text)?;
            file.sync_all()
        };
        let renamed = written().and_then(|()| {
            renameat(&directory, &new, &directory, name_of(&file.reference))?;
            Ok(fsync(&directory)?)
        });
        renamed.map_err(|error| {
            let _ = unlinkat(&directory, &new, AtFlags::empty());
            failed(error.into())
        })
    }

    /// Removes the values for these references, and returns when that is on disk.
    ///
    /// # Errors
    /// The directory cannot be used, or a file cannot be removed.
    pub fn remove<'a>(&self, references: impl IntoIterator<Item = &'a str>) -> Result<(), SealedFilesError> {
        let names = references.into_iter().map(name_of).collect();
        self.remove_names(names).map(drop)
    }

    /// Removes everything, and returns how many values there were.
    ///
    /// # Errors
    /// As for [`SealedFiles::remove`].
    pub fn clear(&self) -> Result<usize, SealedFilesError> {
        let Some(directory) = self.open()? else { return Ok(0) };
        let names = self.names(&directory)?.into_iter().filter(|name| name.starts_with(NEW) || name.ends_with(SUFFIX));
        self.remove_names(names.collect())
    }

    /// Removes what a process has left that was killed while it wrote.
    ///
    /// # Errors
    /// As for [`SealedFiles::remove`].
    pub fn remove_incomplete(&self) -> Result<(), SealedFilesError> {
        let Some(directory) = self.open()? else { return Ok(()) };
        let names = self.names(&directory)?.into_iter().filter(|name| name.starts_with(NEW)).collect();
        self.remove_names(names).map(drop)
    }

    fn remove_names(&self, names: Vec<String>) -> Result<usize, SealedFilesError> {
        let failed = |errno: rustix::io::Errno| SealedFilesError::Write { path: self.0.clone(), errno: errno.into() };
        let Some(directory) = self.open()? else { return Ok(0) };
        let mut removed = 0;
        for name in names {
            match unlinkat(&directory, &name, AtFlags::empty()) {
                Ok(()) => removed += usize::from(name.ends_with(SUFFIX)),
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        fsync(&directory).map_err(failed)?;
        Ok(removed)
    }

    fn names(&self, directory: &OwnedFd) -> Result<Vec<String>, SealedFilesError> {
        let failed = |errno: rustix::io::Errno| SealedFilesError::Open { path: self.0.clone(), errno: errno.into() };
        let entries = Dir::read_from(directory).map_err(failed)?;
        let name = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).transpose()
        };
        entries.filter_map(name).take(NAMES_MAX).collect::<Result<_, _>>().map_err(failed)
    }

    /// Opens the directory; none if it does not exist.
    fn open(&self) -> Result<Option<OwnedFd>, SealedFilesError> {
        let path = || self.0.clone();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(CWD, &self.0, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(SealedFilesError::Open { path: path(), errno: errno.into() }),
        };
        let status = fstat(&opened).map_err(|errno| SealedFilesError::Open { path: path(), errno: errno.into() })?;
        if !is_ours(status.st_uid) {
            return Err(SealedFilesError::Owner { path: path(), directory: path(), uid: status.st_uid });
        }
        if status.st_mode & WRITE_BY_OTHERS != 0 {
            return Err(SealedFilesError::Writable { path: path(), directory: path(), mode: status.st_mode & 0o7777 });
        }
        for directory in self.0.ancestors().skip(1) {
            let status = fs::metadata(directory)
                .map_err(|error| SealedFilesError::Open { path: directory.into(), errno: error.into() })?;
            let mode = status.mode() & 0o7777;
            if !is_ours(status.uid()) {
                return Err(SealedFilesError::Owner { path: path(), directory: directory.into(), uid: status.uid() });
            }
            // In a sticky directory others cannot replace what is ours.
            if mode & WRITE_BY_OTHERS != 0 && mode & STICKY == 0 {
                return Err(SealedFilesError::Writable { path: path(), directory: directory.into(), mode });
            }
        }
        Ok(Some(opened))
    }
}

/// A file of a trusted directory. One that is missing, not ours or not readable is none: then nothing is stored for its reference.
fn read(directory: &OwnedFd, name: &str) -> Option<SealedFile> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory.as_fd(), name, flags, Mode::empty()).ok()?;
    let status = fstat(&file).ok()?;
    let is_regular = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    if !is_regular || !is_ours(status.st_uid) || status.st_mode & WRITE_BY_OTHERS != 0 {
        return None;
    }
    let mut text = Vec::new();
    File::from(file).take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text).ok()?;
    if text.len() > FILE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&text).ok().filter(|file: &SealedFile| file.schema == SCHEMA)
}

/// The name of a reference's file, whatever characters the reference has.
fn name_of(reference: &str) -> String {
    format!("{}{SUFFIX}", hex(digest(&SHA256, reference.as_bytes()).as_ref()))
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Why the directory of sealed values is not used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SealedFilesError {
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// A file in it cannot be written or removed.
    #[error("cannot write to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// It, or a directory above it, belongs to another user.
    #[error("refusing to use the sealed values in {}: owner of {} is uid {uid}, expected uid 0", path.display(), directory.display())]
    Owner { path: PathBuf, directory: PathBuf, uid: u32 },
    /// Other users can write to it, or to a directory above it.
    #[error("refusing to use the sealed values in {}: mode of {} is {mode:04o}, others can write to it", path.display(), directory.display())]
    Writable { path: PathBuf, directory: PathBuf, mode: u32 },
}

impl Fault for SealedFilesError {
    fn class(&self) -> Class {
        match self {
            SealedFilesError::Open { .. } | SealedFilesError::Write { .. } => Class::Kernel,
            SealedFilesError::Owner { .. } | SealedFilesError::Writable { .. } => Class::NotPermitted,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SealedFilesError::Owner { directory, .. } => Some(format!("chown root {}", directory.display())),
            SealedFilesError::Writable { directory, .. } => Some(format!("chmod go-w {}", directory.display())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn files() -> (TempDir, SealedFiles) {
        let directory = tempfile::tempdir().unwrap();
        let files = SealedFiles::new(&directory.path().join("state/sealed"));
        (directory, files)
    }

    fn sealed(reference: &str) -> SealedFile {
        SealedFile::new("https://connect", reference, "sealed:v1 local-kek:trial AAAA")
    }

    #[test]
    fn keeps_the_last_value_of_each_reference() {
        let (_directory, files) = files();
        assert!(files.list().unwrap().is_empty() && files.read("op://v/i/f").unwrap().is_none());
        let first = sealed("op://v/i/f");
        files.write(&first).unwrap();
        let second = SealedFile { item_version: Some(2), ..first };
        files.write(&second).unwrap();
        files.write(&sealed("op://v/i/g")).unwrap();
        assert_eq!(files.read("op://v/i/f").unwrap(), Some(second));
        assert_eq!(files.list().unwrap().len(), 2);
        files.remove(["op://v/i/f", "op://v/i/absent"]).unwrap();
        assert!(files.read("op://v/i/f").unwrap().is_none());
        assert_eq!((files.clear().unwrap(), files.list().unwrap().len()), (1, 0));
        assert_eq!(files.clear().unwrap(), 0);
    }

    #[test]
    fn is_for_root_alone() {
        let (_directory, files) = files();
        files.write(&sealed("op://v/i/f")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(files.path()), 0o700);
        let entries: Vec<_> = fs::read_dir(files.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600]);
    }

    #[test]
    fn is_not_used_if_others_can_write_to_it() {
        let (directory, files) = files();
        files.write(&sealed("op://v/i/f")).unwrap();
        for (path, mode) in [(files.path(), 0o770), (files.path(), 0o707), (&*directory.path().join("state"), 0o777)] {
            let before = fs::metadata(path).unwrap().permissions().mode();
            chmod(path, mode);
            for refused in [
                files.read("op://v/i/f").map(drop),
                files.list().map(drop),
                files.write(&sealed("op://v/i/f")),
                files.clear().map(drop),
            ] {
                let error = refused.unwrap_err();
                assert!(error.to_string().contains("others can write to it"), "{error}");
                assert_eq!(error.hint(), Some(format!("chmod go-w {}", path.display())));
            }
            chmod(path, before & 0o7777);
        }
        let file = fs::read_dir(files.path()).unwrap().next().unwrap().unwrap().path();
        chmod(&file, 0o660);
        assert!(files.read("op://v/i/f").unwrap().is_none());
        chmod(&file, 0o600);
        assert!(files.read("op://v/i/f").unwrap().is_some());
    }

    #[test]
    fn follows_no_link() {
        let (directory, files) = files();
        files.write(&sealed("op://v/i/f")).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(files.path(), &link).unwrap();
        assert!(matches!(SealedFiles::new(&link).list(), Err(SealedFilesError::Open { .. })));
        let file = fs::read_dir(files.path()).unwrap().next().unwrap().unwrap().path();
        let moved = directory.path().join("moved");
        fs::rename(&file, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &file).unwrap();
        assert!(files.read("op://v/i/f").unwrap().is_none());
    }

    #[test]
    fn ignores_what_is_not_one_of_its_files() {
        let (_directory, files) = files();
        files.write(&sealed("op://v/i/f")).unwrap();
        let file = fs::read_dir(files.path()).unwrap().next().unwrap().unwrap().path();
        let text = fs::read(&file).unwrap();
        for content in [&b""[..], b"{", b"{}", &text[..text.len() / 2], &[b' '; FILE_BYTES_MAX + 1]] {
            fs::write(&file, content).unwrap();
            assert!(files.read("op://v/i/f").unwrap().is_none());
        }
        // The file of another reference.
        fs::write(files.path().join(name_of("op://v/i/g")), &text).unwrap();
        assert!(files.read("op://v/i/g").unwrap().is_none());
    }

    #[test]
    fn removes_what_was_not_completed() {
        let (_directory, files) = files();
        files.write(&sealed("op://v/i/f")).unwrap();
        fs::write(files.path().join(".new-0123"), "{").unwrap();
        assert_eq!(files.list().unwrap().len(), 1);
        files.remove_incomplete().unwrap();
        assert_eq!(fs::read_dir(files.path()).unwrap().count(), 1);
    }
}
