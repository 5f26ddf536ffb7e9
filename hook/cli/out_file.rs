//! Files to which a command writes secrets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::run_directory::TMPFS_MAGIC;
use crate::secret::Secret;
use crate::whole_file::{self, Existing};

/// The options for the output of a command that prints secrets.
#[derive(clap::Args)]
pub(super) struct OutFile {
    /// Write to this file on a tmpfs, with mode 0600, instead of standard output.
    #[arg(short = 'o', long = "out-file", value_name = "FILE")]
    path: Option<PathBuf>,
    /// Also write to a filesystem that is not a tmpfs.
    #[arg(long, requires = "path")]
    on_disk: bool,
    /// Replace an existing file.
    #[arg(short, long, requires = "path")]
    force: bool,
}

impl OutFile {
    /// The file, if it is not standard output.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether secrets may be written to this file, which is asked before they are fetched.
    ///
    /// # Errors
    /// The file exists, is no file, or would be on a disk.
    pub(super) fn check(&self, path: &Path) -> Result<(), OutFileError> {
        let path_text = || path.to_owned();
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => return Err(OutFileError::NotRegular { path: path_text() }),
            Ok(_) if !self.force => return Err(OutFileError::Exists { path: path_text() }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OutFileError::Write { path: path_text(), errno: error.into() });
            }
            _ => {}
        }
        let filesystem = statfs(whole_file::directory(path))
            .map_err(|errno| OutFileError::Write { path: path_text(), errno: errno.into() })?;
        let is_tmpfs = filesystem.f_type == TMPFS_MAGIC;
        if is_tmpfs || self.on_disk { Ok(()) } else { Err(OutFileError::OnDisk { path: path_text() }) }
    }

    /// Writes a secret to the file, whole or not at all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn write(&self, path: &Path, secret: &Secret) -> Result<(), OutFileError> {
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        let written = whole_file::write(path, secret.expose(), existing, |_| Ok(()));
        written.map_err(|error| OutFileError::Write { path: path.to_owned(), errno: error.into() })
    }
}

/// Why secrets are not written to a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutFileError {
    /// A disk keeps what was written to it.
    #[error("refusing to write secrets to {}: its filesystem is not a tmpfs", .path.display())]
    OnDisk { path: PathBuf },
    /// A file that may be of use.
    #[error("refusing to replace {}", .path.display())]
    Exists { path: PathBuf },
    /// A link, directory or device.
    #[error("refusing to write secrets to {}: it is not a regular file", .path.display())]
    NotRegular { path: PathBuf },
    /// A system call failed.
    #[error("cannot write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
}

impl Fault for OutFileError {
    fn class(&self) -> Class {
        match self {
            OutFileError::Write { .. } => Class::Kernel,
            _ => Class::CommandLine,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            OutFileError::OnDisk { .. } => {
                "$XDG_RUNTIME_DIR and /dev/shm are on a tmpfs as a rule; `--on-disk` permits any filesystem"
            }
            OutFileError::Exists { .. } => "`--force` replaces it",
            OutFileError::NotRegular { .. } => "without `--out-file` the output goes to standard output",
            OutFileError::Write { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
