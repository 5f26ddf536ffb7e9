//! Files that the host trusts: the settings, and every file that they name.
//!
//! A user who can write one of them decides who gets which secret, so a file is used only if no user but root and the one who runs the
//! hook could have written it, or have put it, or a link to it, where it is. Links are followed: Kubernetes projects a volume as
//! links. POSIX ACLs need no look of their own: their mask shows as the group's bits of the mode.
//!
//! In a user namespace, as podman has one without root, root is the user whose namespace it is. The host's root has no id there: it
//! shows as the same number as everyone else without one, and none of them is trusted.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::harden::is_initial_user_namespace;

const WRITE_BY_OTHERS: u32 = 0o022;
const ANY_BY_OTHERS: u32 = 0o077;
const READ_BY_GROUP: u32 = 0o040;
const STICKY: u32 = 0o1000;
const EXECUTABLE: u32 = 0o111;
const ROOT: u32 = 0;
/// How often a file that is appended to may be renamed, as logs are, after it was opened and before it was checked.
const RENAMED_MAX: u32 = 3;
/// What the kernel shows for a user who has no id in our user namespace; see `/proc/sys/kernel/overflowuid`.
const OVERFLOW: u32 = 65_534;

/// How much harm a file does in the wrong hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may read it, but not write to it.
    Plain,
    /// Others may not even read it.
    Credential,
    /// The same for a token that Kubernetes projects into a pod: it gives it to a group, the pod's `fsGroup`, which we are in, too.
    Projected,
    /// As a plain one. It is not ours to use, but an engine's: in a user namespace its owner may be anyone, as the host's
    /// root is there.
    Program,
}

/// Reads the whole of a file that the host trusts, at most `bytes_max` bytes.
///
/// Checks are made on the open file, so that what was checked is what is read. A FIFO or a device cannot make it wait.
///
/// # Errors
/// The file cannot be opened or read, is too large, or could have been written (a credential: read) by others.
pub fn read(path: &Path, kind: Kind, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_dated(path, kind, bytes_max).map(|(bytes, _)| bytes)
}

/// The same, and the file's modification time.
///
/// # Errors
/// As for [`read`].
pub fn read_dated(
    path: &Path,
    kind: Kind,
    bytes_max: usize,
) -> Result<(Zeroizing<Vec<u8>>, Option<SystemTime>), FileError> {
    let (file, metadata) = open(path, kind, OpenOptions::new().read(true))?;
    // One byte more than allowed detects a file that is too large; the full capacity avoids copies that stay in memory.
    let limit = bytes_max as u64 + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len().min(limit) as usize + 1));
    match file.take(limit).read_to_end(&mut bytes) {
        Err(error) => Err(FileError::Read { path: path.into(), errno: error.into() }),
        Ok(length) if length > bytes_max => Err(FileError::TooLarge { path: path.into(), bytes_max }),
        Ok(_) => Ok((bytes, metadata.modified().ok())),
    }
}

/// Checks a file that others than this program will read, or run.
///
/// # Errors
/// The file cannot be opened, or could have been written (a credential: read) by others.
pub fn check(path: &Path, kind: Kind) -> Result<(), FileError> {
    open(path, kind, OpenOptions::new().read(true)).map(drop)
}

/// Opens a file that the host trusts to read it piece by piece.
///
/// # Errors
/// The file cannot be opened, or could have been written by others.
pub fn open_plain(path: &Path) -> Result<File, FileError> {
    open(path, Kind::Plain, OpenOptions::new().read(true)).map(|(file, _)| file)
}

/// Opens a file that the host trusts to append to it, and to read what is in it; makes it with mode 0600 if there is none.
///
/// # Errors
/// The file cannot be opened or could have been written by others. A new file is left behind only if its directory is trusted.
pub fn append(path: &Path) -> Result<File, FileError> {
    let open = || open(path, Kind::Plain, OpenOptions::new().read(true).append(true).create(true).mode(0o600));
    let mut opened = open();
    for _ in 0..RENAMED_MAX {
        match &opened {
            Err(FileError::Open { errno, .. }) if errno.is_not_found() => opened = open(),
            _ => break,
        }
    }
    opened.map(|(file, _)| file)
}

/// Checks that a program can be run, and that only root or our own user could have put it where it is. In a user namespace, in
/// which ids of other users all look the same, files of such an owner are accepted, too.
///
/// # Errors
/// It is missing, is not executable, or others could exchange it.
pub fn require_program(path: &Path) -> Result<(), FileError> {
    let (_, metadata) = open(path, Kind::Program, OpenOptions::new().read(true))?;
    match metadata.mode() & EXECUTABLE {
        0 => Err(FileError::NotExecutable { path: path.into() }),
        _ => Ok(()),
    }
}

fn open(path: &Path, kind: Kind, options: &mut OpenOptions) -> Result<(File, Metadata), FileError> {
    let cannot_open = |error: io::Error| FileError::Open { path: path.into(), errno: error.into() };
    check_directory(path, path, kind)?;
    let file = options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(cannot_open)?;
    let metadata = file.metadata().map_err(cannot_open)?;
    check_file(path, &metadata, kind)?;
    check_directory(path, &fs::canonicalize(path).map_err(cannot_open)?, kind)?;
    Ok((file, metadata))
}

fn check_file(path: &Path, metadata: &Metadata, kind: Kind) -> Result<(), FileError> {
    let path = || path.to_owned();
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { path: path() });
    }
    if !is_trusted(metadata.uid(), kind) {
        return Err(FileError::Owner { path: path(), uid: metadata.uid() });
    }
    if mode & WRITE_BY_OTHERS != 0 {
        return Err(FileError::Writable { path: path(), mode });
    }
    let shown = match kind {
        Kind::Plain | Kind::Program => 0,
        Kind::Credential => mode & ANY_BY_OTHERS,
        Kind::Projected if is_own_group(metadata.gid()) => mode & ANY_BY_OTHERS & !READ_BY_GROUP,
        Kind::Projected => mode & ANY_BY_OTHERS,
    };
    if shown != 0 {
        return Err(FileError::Readable { path: path(), mode });
    }
    Ok(())
}

/// Checks the directory that holds `name`, which is `path` itself or what it links to.
///
/// In a sticky directory others can make files, but not replace ours; that is how Kubernetes mounts its volumes.
fn check_directory(path: &Path, name: &Path, kind: Kind) -> Result<(), FileError> {
    let directory = match name.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let metadata =
        fs::metadata(directory).map_err(|error| FileError::Open { path: path.into(), errno: error.into() })?;
    let mode = metadata.mode() & 0o7777;
    if !is_trusted(metadata.uid(), kind) {
        return Err(FileError::DirectoryOwner { path: path.into(), directory: directory.into(), uid: metadata.uid() });
    }
    if mode & WRITE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(FileError::DirectoryWritable { path: path.into(), directory: directory.into(), mode });
    }
    Ok(())
}

fn is_trusted(uid: u32, kind: Kind) -> bool {
    let is_root = uid == ROOT && (kind == Kind::Program || !AS_IN_USER_NAMESPACE.load(Ordering::Relaxed));
    is_root || if may_be_anyone(uid) { kind == Kind::Program } else { uid == own_uid() }
}

/// Whether files of the host's root are refused, as the hook refuses them in the user namespace of an engine without root.
static AS_IN_USER_NAMESPACE: AtomicBool = AtomicBool::new(false);

/// Makes this process refuse each file that the hook would refuse in the user namespace of an engine that the caller runs without
/// root, if the caller is not in it already.
pub fn trust_as_in_user_namespace() {
    AS_IN_USER_NAMESPACE.store(own_uid() != ROOT, Ordering::Relaxed);
}

fn may_be_anyone(uid: u32) -> bool {
    uid == OVERFLOW && !is_initial_user_namespace()
}

fn is_own_group(gid: u32) -> bool {
    rustix::process::getegid().as_raw() == gid
        || rustix::process::getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn owner(uid: u32) -> String {
    let others = if may_be_anyone(uid) { ", as is everyone without an id in this user namespace" } else { "" };
    format!("uid {uid}{others}")
}

fn trusted_owners() -> String {
    match own_uid() {
        uid if AS_IN_USER_NAMESPACE.load(Ordering::Relaxed) => {
            format!("uid {uid}, whose engine cannot tell root from others")
        }
        uid if uid != ROOT && !may_be_anyone(uid) => format!("uid 0 or {uid}"),
        _ => "uid 0".to_owned(),
    }
}

/// Why a file was not used.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum FileError {
    /// The file or its directory is missing or may not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Reading failed after the checks.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// A directory, FIFO, socket or device.
    #[error("refusing to use {}: it is not a regular file", path.display())]
    NotRegular { path: PathBuf },
    /// The file belongs to another user, who could change it at any time.
    #[error("refusing to use {}: owner is {}, expected {}", path.display(), owner(*uid), trusted_owners())]
    Owner { path: PathBuf, uid: u32 },
    /// Its group or everyone can write to it.
    #[error("refusing to use {}: mode is {mode:04o}, others can write to it", path.display())]
    Writable { path: PathBuf, mode: u32 },
    /// It holds a credential and its group or everyone can read it.
    #[error("refusing to use {}: mode is {mode:04o}, others can read it", path.display())]
    Readable { path: PathBuf, mode: u32 },
    /// The directory belongs to another user, who could replace the file.
    #[error("refusing to use {}: owner of {} is {}, expected {}", path.display(), directory.display(), owner(*uid), trusted_owners())]
    DirectoryOwner { path: PathBuf, directory: PathBuf, uid: u32 },
    /// Other users could replace the file.
    #[error("refusing to use {}: mode of {} is {mode:04o}, others can replace files in it", path.display(), directory.display())]
    DirectoryWritable { path: PathBuf, directory: PathBuf, mode: u32 },
    /// A program that is not executable.
    #[error("refusing to use {}: it is not executable", path.display())]
    NotExecutable { path: PathBuf },
    /// Larger than anything of its kind.
    #[error("refusing to use {}: it is larger than {bytes_max} bytes", path.display())]
    TooLarge { path: PathBuf, bytes_max: usize },
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, FileError::Open { errno, .. } if errno.is_not_found())
    }
}

impl Fault for FileError {
    fn class(&self) -> Class {
        match self {
            FileError::Open { .. }
            | FileError::Read { .. }
            | FileError::NotRegular { .. }
            | FileError::NotExecutable { .. }
            | FileError::TooLarge { .. } => Class::Settings,
            FileError::Owner { .. }
            | FileError::Writable { .. }
            | FileError::Readable { .. }
            | FileError::DirectoryOwner { .. }
            | FileError::DirectoryWritable { .. } => Class::NotPermitted,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            FileError::Writable { path, .. } => Some(format!("chmod go-w {}", path.display())),
            FileError::Readable { path, .. } if is_projected(path) => {
                Some("set `runAsUser` or `fsGroup` for the pod: Kubernetes then gives the token to it alone".into())
            }
            FileError::Readable { path, .. } => Some(format!("chmod 0600 {}", path.display())),
            FileError::Owner { .. } | FileError::DirectoryOwner { .. }
                if !is_initial_user_namespace() || AS_IN_USER_NAMESPACE.load(Ordering::Relaxed) =>
            {
                Some("without root, an engine needs settings, credentials and directories of its user's own".into())
            }
            FileError::Owner { path, .. } => Some(format!("chown root {}", path.display())),
            FileError::DirectoryWritable { directory, .. } => Some(format!("chmod go-w {}", directory.display())),
            FileError::DirectoryOwner { directory, .. } => Some(format!("chown root {}", directory.display())),
            FileError::NotExecutable { path } => Some(format!("chmod 0755 {}", path.display())),
            FileError::Open { .. }
            | FileError::Read { .. }
            | FileError::NotRegular { .. }
            | FileError::TooLarge { .. } => None,
        }
    }
}

/// Whether a file is one of a volume that Kubernetes projects: its mode cannot be changed on the host.
fn is_projected(path: &Path) -> bool {
    path.parent().is_some_and(|volume| volume.join("..data").is_symlink())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use tempfile::TempDir;

    use super::*;

    fn file(directory: &TempDir, mode: u32) -> PathBuf {
        let path = directory.path().join("token");
        fs::write(&path, "text").unwrap();
        chmod(&path, mode);
        path
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path, kind: Kind) -> String {
        read(path, kind, 100).unwrap_err().to_string()
    }

    #[test]
    fn reads_a_file_that_only_we_can_write() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, 0o644);
        assert_eq!(read(&path, Kind::Plain, 4).unwrap().as_slice(), b"text");
        chmod(&path, 0o400);
        assert_eq!(read(&path, Kind::Credential, 4).unwrap().as_slice(), b"text");
    }

    #[test]
    fn refuses_a_token_file_that_others_can_read() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, 0o644);
        let expected = format!("refusing to use {}: mode is 0644, others can read it", path.display());
        assert_eq!(refusal(&path, Kind::Credential), expected);
        chmod(&path, 0o640);
        assert!(refusal(&path, Kind::Credential).ends_with("mode is 0640, others can read it"));
    }

    #[test]
    fn refuses_a_file_that_others_can_write() {
        let directory = TempDir::new().unwrap();
        for mode in [0o664, 0o646] {
            let path = file(&directory, mode);
            assert!(refusal(&path, Kind::Plain).ends_with(&format!("mode is {mode:04o}, others can write to it")));
        }
    }

    #[test]
    fn refuses_what_others_own() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, 0o600);
        if own_uid() != ROOT {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        chown(&path, Some(1234), None).unwrap();
        assert!(refusal(&path, Kind::Plain).ends_with("owner is uid 1234, expected uid 0"));
        chown(&path, Some(0), None).unwrap();
        chown(directory.path(), Some(1234), None).unwrap();
        assert!(refusal(&path, Kind::Plain).ends_with("is uid 1234, expected uid 0"));
    }

    #[test]
    fn refuses_a_file_that_others_can_replace() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, 0o600);
        chmod(directory.path(), 0o777);
        assert!(refusal(&path, Kind::Plain).ends_with("is 0777, others can replace files in it"));
        chmod(directory.path(), 0o1777);
        assert!(read(&path, Kind::Plain, 100).is_ok());
    }

    #[test]
    fn follows_links_as_kubernetes_projects_them_but_checks_both_ends() {
        let volume = TempDir::new().unwrap();
        let data = volume.path().join("..2026_01_01");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("token"), "text").unwrap();
        chmod(&data.join("token"), 0o400);
        symlink("..2026_01_01", volume.path().join("..data")).unwrap();
        let path = volume.path().join("token");
        symlink("..data/token", &path).unwrap();
        assert!(read(&path, Kind::Credential, 100).is_ok());
        chmod(&data, 0o777);
        assert!(refusal(&path, Kind::Plain).contains("..2026_01_01 is 0777"));
        chmod(&data, 0o755);
        chmod(volume.path(), 0o777);
        assert!(refusal(&path, Kind::Plain).contains("is 0777"));
    }

    #[test]
    fn does_not_wait_for_a_fifo() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(refusal(&path, Kind::Plain).ends_with("it is not a regular file"));
        assert!(refusal(directory.path(), Kind::Plain).ends_with("it is not a regular file"));
    }

    #[test]
    fn refuses_more_bytes_than_there_should_be() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, 0o600);
        assert!(read(&path, Kind::Plain, 3).unwrap_err().to_string().ends_with("it is larger than 3 bytes"));
    }

    #[test]
    fn appends_to_a_file_that_it_makes_for_us_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("audit");
        for _ in 0..2 {
            io::Write::write_all(&mut append(&path).unwrap(), b"line\n").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"line\nline\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        chmod(&path, 0o666);
        assert!(append(&path).is_err());
    }

    #[test]
    fn makes_no_file_where_others_could_replace_it() {
        let directory = TempDir::new().unwrap();
        chmod(directory.path(), 0o777);
        let path = directory.path().join("audit");
        assert!(append(&path).is_err());
        assert!(!path.exists());
    }
}
