//! The protocol between systemd and a service: passed sockets, readiness, and signs of life.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use listenfd::ListenFd;

/// The variables that systemd sets ([sd_listen_fds(3)](https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html),
/// [sd_notify(3)](https://www.freedesktop.org/software/systemd/man/sd_notify.html),
/// [sd_watchdog_enabled(3)](https://www.freedesktop.org/software/systemd/man/sd_watchdog_enabled.html)).
pub const VARIABLES: &[&str] = &["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", NOTIFY, WATCHDOG];

const NOTIFY: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";

/// The first socket that systemd passed, if it passed any.
///
/// # Errors
/// It is not one that listens on TCP.
pub fn tcp_socket() -> io::Result<Option<TcpListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 { Ok(None) } else { passed.take_tcp_listener(0) }
}

/// All sockets that systemd passed.
///
/// # Errors
/// One is not a unix socket that listens.
pub fn unix_sockets() -> io::Result<Vec<UnixListener>> {
    let mut passed = ListenFd::from_env();
    let sockets = (0..passed.len()).map(|index| passed.take_unix_listener(index));
    sockets.filter_map(io::Result::transpose).collect()
}

/// Sends a state to systemd, if it started the process: `READY=1`, `STOPPING=1`.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os(NOTIFY) else { return };
    let send = || {
        let address = match path.as_encoded_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    };
    // If it gets lost, systemd reports that the service did not become ready.
    let _: io::Result<usize> = send();
}

/// How often systemd expects a sign of life, `WATCHDOG=1`, if it does.
pub fn watchdog() -> Option<Duration> {
    let microseconds = std::env::var(WATCHDOG).ok()?.parse().ok()?;
    Some(Duration::from_micros(microseconds)).filter(|period| !period.is_zero())
}
