//! The sockets on which the broker listens.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use tokio::net::{UnixListener, UnixStream};

use super::error::ProgramError;
use super::protocol::SOCKET;
use crate::settings::Settings;
use crate::whole_file::Existing;
use crate::{run_directory, systemd};

/// Where the broker listens without systemd.
pub(super) fn socket_path<'a>(argument: Option<&'a Path>, settings: &'a Settings) -> &'a Path {
    argument.or(settings.broker.socket.as_deref()).unwrap_or(Path::new(SOCKET))
}

/// The sockets on which a broker listens.
pub(super) struct Listeners {
    /// All of them.
    pub(super) sockets: Vec<UnixListener>,
    /// Whether they are systemd's, which passes them to the next broker, with the connections that wait.
    are_passed: bool,
}

impl Listeners {
    /// Those that systemd passed, or one at this path.
    pub(super) fn open(path: &Path, existing: Existing) -> Result<Listeners, ProgramError> {
        let passed = systemd::unix_sockets().map_err(|reason| ProgramError::Passed { reason })?;
        if passed.is_empty() {
            return Ok(Listeners { sockets: vec![bind(path, 0o600, existing)?], are_passed: false });
        }
        let listener = |socket: StdListener| {
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket)
        };
        let sockets = passed.into_iter().map(listener).collect::<io::Result<_>>();
        Ok(Listeners { sockets: sockets.map_err(|reason| ProgramError::Passed { reason })?, are_passed: true })
    }

    /// Stops listening, and returns the connections that nothing else will accept.
    pub(super) fn close(self) -> Vec<UnixStream> {
        if self.are_passed {
            return Vec::new();
        }
        self.sockets
            .into_iter()
            .filter_map(|socket| socket.into_std().ok())
            .flat_map(|socket| waiting(&socket))
            .collect()
    }
}

/// The connections that wait in a socket. The kernel refuses further ones from now on.
fn waiting(socket: &StdListener) -> Vec<UnixStream> {
    let _ = shutdown(socket, Shutdown::Read);
    let accepted =
        std::iter::from_fn(|| retry_on_intr(|| accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)).ok());
    accepted.filter_map(|socket| UnixStream::from_std(socket.into()).ok()).collect()
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
