//! The sockets on which the broker listens.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::io::Errno;
use tokio::net::UnixListener;

use super::error::ProgramError;
use super::protocol::SOCKET;
use crate::settings::Settings;
use crate::whole_file::Existing;
use crate::{run_directory, systemd};

/// Where the broker listens without systemd.
pub(super) fn socket_path<'a>(argument: Option<&'a Path>, settings: &'a Settings) -> &'a Path {
    argument.or(settings.broker.socket.as_deref()).unwrap_or(Path::new(SOCKET))
}

/// The sockets that systemd passed, or one at this path.
pub(super) fn listen(path: &Path, existing: Existing) -> Result<Vec<UnixListener>, ProgramError> {
    let passed = systemd::unix_sockets().map_err(|reason| ProgramError::Passed { reason })?;
    if passed.is_empty() {
        return Ok(vec![bind(path, 0o600, existing)?]);
    }
    let listener = |socket: std::os::unix::net::UnixListener| {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    };
    passed.into_iter().map(listener).collect::<io::Result<_>>().map_err(|reason| ProgramError::Passed { reason })
}

/// Listens at a path. The socket appears there when it has its mode and accepts connections, and takes the place of one on which nothing
/// listens any more, or of any other: connections that were made to that one stay with it.
pub(super) fn bind(path: &Path, mode: u32, existing: Existing) -> Result<UnixListener, ProgramError> {
    let failed = |error: io::Error| ProgramError::Listen { path: path.to_owned(), errno: error.into() };
    if path.starts_with(run_directory::DIRECTORY) {
        run_directory::make_private().map_err(|errno| failed(errno.into()))?;
    }
    if existing == Existing::Keep && std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error())));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let bound = || {
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&new, path)?;
        Ok(listener)
    };
    bound().map_err(failed)
}
