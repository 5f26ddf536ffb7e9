//! The protocol between systemd and a service: passed sockets, and readiness.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;

/// The variables that systemd sets ([sd_listen_fds(3)](https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html),
/// [sd_notify(3)](https://www.freedesktop.org/software/systemd/man/sd_notify.html)).
pub const VARIABLES: &[&str] = &["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", NOTIFY];

const NOTIFY: &str = "NOTIFY_SOCKET";

/// The first socket that systemd passed, if it passed any.
///
/// # Errors
/// It is not one that listens on TCP.
pub fn socket() -> io::Result<Option<TcpListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 { Ok(None) } else { passed.take_tcp_listener(0) }
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
