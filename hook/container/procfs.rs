//! `/proc`, held by a descriptor and known to be what it claims.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC};

use crate::errno::{SyscallError, failed};

/// Where a pidfd leads. The path of a file begins with a slash, so that no file has this one.
const PIDFD: &str = "anon_inode:[pidfd]";

/// What most files below `/proc` fit in.
const FILE_BYTES_USUAL: usize = 4096;

/// The `/proc` of this mount namespace.
///
/// It remains the host's `/proc` when the thread enters another mount namespace, where a hostile image may have put something else
/// at that path.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Opens `/proc`.
    ///
    /// # Errors
    /// When it cannot be opened or is not the kernel's own.
    pub fn open() -> Result<Procfs, ProcfsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/proc", flags, Mode::empty()).map_err(failed(r#"open("/proc")"#))?;
        let filesystem = rustix::fs::fstatfs(&root).map_err(failed(r#"fstatfs("/proc")"#))?;
        if filesystem.f_type != PROC_SUPER_MAGIC {
            return Err(ProcfsError::NotProcfs);
        }
        Ok(Procfs(root))
    }

    /// Opens a file below `/proc` for reading.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn file(&self, path: &str) -> Result<File, ProcfsError> {
        let opened = rustix::fs::openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(opened.map_err(failed(format!(r#"open("/proc/{path}")"#)))?.into())
    }

    /// Reads a file below `/proc`.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, ProcfsError> {
        Ok(read(&self.file(path)?).map_err(failed(format!(r#"read("/proc/{path}")"#)))?)
    }

    /// The id of the mount to which a descriptor of this process leads, as in `mountinfo`.
    ///
    /// Taken from `fdinfo`, which every kernel with the mount API has; `statx` returns it from Linux 5.8 on only.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn mount_id(&self, descriptor: impl AsFd) -> Result<u64, ProcfsError> {
        let path = format!("self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
        let content = self.read(&path)?;
        let text = String::from_utf8_lossy(&content);
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        id.ok_or(ProcfsError::NoMountId { path })
    }

    /// The number of the process to which a pidfd leads, as this `/proc` has it: -1 if it has ended and was waited for, 0 if it cannot be
    /// seen from here; `None` for another kind of descriptor. The descriptor itself is asked for nothing: another kind might never
    /// answer. Nor does its description say what it is: some kinds describe themselves in text that a user chooses, such as the name of
    /// a dma-buf, which can contain a line break and `Pid:`.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn pid(&self, pidfd: impl AsFd) -> Result<Option<i32>, ProcfsError> {
        if self.path(&pidfd)? != Path::new(PIDFD) {
            return Ok(None);
        }
        let content = self.read(&format!("self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
        let text = String::from_utf8_lossy(&content);
        Ok(text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()))
    }

    /// The path to which a descriptor of this process leads, seen from this thread's root.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn path(&self, descriptor: impl AsFd) -> Result<PathBuf, ProcfsError> {
        self.link(&format!("self/fd/{}", descriptor.as_fd().as_raw_fd()))
    }

    /// The path to which a link below `/proc` leads, seen from this thread's root.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn link(&self, link: &str) -> Result<PathBuf, ProcfsError> {
        let path = rustix::fs::readlinkat(&self.0, link, Vec::new());
        let path = path.map_err(failed(format!(r#"readlink("/proc/{link}")"#)))?;
        Ok(OsString::from_vec(path.into_bytes()).into())
    }
}

/// Reads the rest of a file below `/proc`. Such a file has no size: `File` would ask for one, and begin with 32 bytes.
pub(super) fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(FILE_BYTES_USUAL);
    file.take(u64::MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// Why `/proc` could not be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ProcfsError {
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// Something else is mounted at `/proc`.
    #[error("refusing to use /proc: it is not a procfs")]
    NotProcfs,
    /// The kernel's description of a descriptor has no mount id.
    #[error("cannot find mnt_id in /proc/{path}")]
    NoMountId { path: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Mounts;

    #[test]
    fn tells_mount_and_path_of_a_descriptor() {
        let procfs = Procfs::open().unwrap();
        let mounts = Mounts::parse(&procfs.read("self/mountinfo").unwrap()).unwrap();
        let proc_mount = mounts.get(procfs.mount_id(&procfs.0).unwrap()).unwrap();
        assert_eq!((proc_mount.fs_type.as_str(), procfs.path(&procfs.0).unwrap()), ("proc", "/proc".into()));
    }

    #[test]
    fn finds_the_process_of_a_pidfd_alone() {
        let procfs = Procfs::open().unwrap();
        let own = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(procfs.pid(&pidfd).unwrap(), Some(own.as_raw_nonzero().get()));
        let directory = tempfile::tempdir().unwrap();
        let named = File::create(directory.path().join(PIDFD)).unwrap();
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        assert_eq!((procfs.pid(named).unwrap(), procfs.pid(eventfd).unwrap()), (None, None));
    }

    #[test]
    fn names_the_file_that_it_could_not_open() {
        let error = Procfs::open().unwrap().read("no-such-file").unwrap_err();
        assert_eq!(error.to_string(), r#"open("/proc/no-such-file")"#);
    }
}
