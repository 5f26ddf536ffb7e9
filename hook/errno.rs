//! Failed system calls, told like the call: `fsopen("tmpfs"): Operation not permitted (EPERM)`.

use std::fmt;
use std::io;

/// What the kernel answered, as a sentence and by the name that manual pages use: `Operation not permitted (EPERM)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(nix::errno::Errno);

impl Errno {
    /// Whether there is no such file.
    pub fn is_not_found(self) -> bool {
        self.0 == nix::errno::Errno::ENOENT
    }
}

/// A system call that failed: it prints the call, its source prints the answer.
#[derive(Debug, thiserror::Error)]
#[error("{call}")]
pub struct SyscallError {
    /// The call and the arguments that tell it from others, never a secret or a length.
    pub call: String,
    /// What the kernel answered.
    #[source]
    pub errno: Errno,
}

/// Gives an answer its call: `fsopen(…).map_err(failed("fsopen(\"tmpfs\")"))?`.
pub fn failed<E: Into<Errno>>(call: impl Into<String>) -> impl FnOnce(E) -> SyscallError {
    move |errno| SyscallError { call: call.into(), errno: errno.into() }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.0.desc(), self.0)
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
    /// An error of the standard library's own, which no call answered, becomes `EIO`.
    fn from(error: io::Error) -> Errno {
        Errno(error.raw_os_error().map_or(nix::errno::Errno::EIO, nix::errno::Errno::from_raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn reads_like_the_call() {
        let error = failed(r#"fsopen("tmpfs")"#)(rustix::io::Errno::PERM);
        assert_eq!(error.to_string(), r#"fsopen("tmpfs")"#);
        assert_eq!(error.source().unwrap().to_string(), "Operation not permitted (EPERM)");
    }

    #[test]
    fn keeps_the_answer_of_the_standard_librarys_calls() {
        let error = std::fs::File::open("/nowhere").unwrap_err();
        assert_eq!(Errno::from(error).to_string(), "No such file or directory (ENOENT)");
    }
}
