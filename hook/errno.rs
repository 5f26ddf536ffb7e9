//! Failed system calls, printed like the call: `fsopen("tmpfs"): Operation not permitted (EPERM)`.

use std::fmt;
use std::io;

/// An errno, printed as a sentence and by its name in the manual pages: `Operation not permitted (EPERM)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(nix::errno::Errno);

impl Errno {
    /// Whether there is no such file.
    pub fn is_not_found(self) -> bool {
        self.0 == nix::errno::Errno::ENOENT
    }

    /// Whether the caller lacks the permission.
    pub fn is_denied(self) -> bool {
        matches!(self.0, nix::errno::Errno::EACCES | nix::errno::Errno::EPERM)
    }
}

/// A failed system call: it prints the call, and its source the errno.
#[derive(Debug, thiserror::Error)]
#[error("{call}")]
pub struct SyscallError {
    /// The call and the arguments that identify it, never a secret or a length.
    pub call: String,
    /// The errno.
    #[source]
    pub errno: Errno,
}

impl SyscallError {
    /// What a call that the kernel does not have needs.
    pub fn hint(&self) -> Option<String> {
        (self.errno == Errno(nix::errno::Errno::ENOSYS)).then(|| {
            "Linux 5.6 is the oldest that is supported; where it is newer, a seccomp filter forbids the call".to_owned()
        })
    }
}

/// Adds the call to an errno: `fsopen(…).map_err(failed("fsopen(\"tmpfs\")"))?`.
pub fn failed<E: Into<Errno>>(call: impl Into<String>) -> impl FnOnce(E) -> SyscallError {
    move |errno| SyscallError { call: call.into(), errno: errno.into() }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self.0 {
            // podman takes "no such file or directory" in a hook's output for a missing command, and reports that instead.
            nix::errno::Errno::ENOENT => "No such file",
            other => other.desc(),
        };
        write!(f, "{sentence} ({:?})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Errno {
        Errno(errno)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno(nix::errno::Errno::from_raw(errno.raw_os_error()))
    }
}

impl From<io::Error> for Errno {
    /// Libraries that add a path to an error, such as tempfile, keep its kind but not its errno. An error without either, of the standard
    /// library itself, becomes `EIO`.
    fn from(error: io::Error) -> Errno {
        Errno(error.raw_os_error().map_or_else(|| errno_of(error.kind()), nix::errno::Errno::from_raw))
    }
}

/// The errno that the standard library maps to this kind.
fn errno_of(kind: io::ErrorKind) -> nix::errno::Errno {
    use io::ErrorKind as Kind;
    use nix::errno::Errno;
    match kind {
        Kind::NotFound => Errno::ENOENT,
        Kind::PermissionDenied => Errno::EACCES,
        Kind::AlreadyExists => Errno::EEXIST,
        Kind::NotADirectory => Errno::ENOTDIR,
        Kind::IsADirectory => Errno::EISDIR,
        Kind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        Kind::ReadOnlyFilesystem => Errno::EROFS,
        Kind::StorageFull => Errno::ENOSPC,
        Kind::QuotaExceeded => Errno::EDQUOT,
        Kind::FileTooLarge => Errno::EFBIG,
        Kind::CrossesDevices => Errno::EXDEV,
        Kind::TooManyLinks => Errno::EMLINK,
        Kind::InvalidFilename => Errno::ENAMETOOLONG,
        Kind::ResourceBusy => Errno::EBUSY,
        Kind::OutOfMemory => Errno::ENOMEM,
        Kind::Interrupted => Errno::EINTR,
        Kind::BrokenPipe => Errno::EPIPE,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno as Kernel;
    use std::error::Error;

    #[test]
    fn reads_like_the_call() {
        let error = failed(r#"fsopen("tmpfs")"#)(rustix::io::Errno::PERM);
        assert_eq!(error.to_string(), r#"fsopen("tmpfs")"#);
        assert_eq!(error.source().unwrap().to_string(), "Operation not permitted (EPERM)");
    }

    #[test]
    fn keeps_the_errno_of_an_io_error() {
        let error = std::fs::File::open("/nowhere").unwrap_err();
        assert_eq!(Errno::from(error).to_string(), "No such file (ENOENT)");
    }

    #[test]
    fn keeps_the_errno_of_an_error_with_a_path() {
        let missing = tempfile::tempdir_in("/nowhere").unwrap_err();
        assert_eq!(missing.raw_os_error(), None, "then the table is not needed any more");
        assert_eq!(Errno::from(missing).to_string(), "No such file (ENOENT)");
        for errno in [Kernel::EACCES, Kernel::EROFS, Kernel::ENOSPC, Kernel::EDQUOT, Kernel::ENAMETOOLONG] {
            let kind = io::Error::from_raw_os_error(errno as i32).kind();
            assert_eq!(Errno::from(io::Error::new(kind, "with a path")), Errno::from(errno));
        }
    }
}
