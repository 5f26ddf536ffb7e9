//! The broker of a host, and the hook that asks it.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::host::{self, Host};
use super::{program, with_mode};

/// How long the broker may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker. It is killed when this is dropped.
pub(crate) struct Broker {
    child: Child,
    socket: PathBuf,
    hook_settings: PathBuf,
}

impl Broker {
    /// Starts the broker of a host with its settings, and writes settings for the hook that name nothing but the socket.
    pub(crate) fn start(host: &Host) -> Broker {
        Broker::start_with(host.settings(), &host.path("broker.sock"), &host.path("hook.toml"))
    }

    /// The same for settings at any path.
    pub(crate) fn start_with(settings: PathBuf, socket: &Path, hook_settings: &Path) -> Broker {
        write_hook_settings(hook_settings, socket, "");
        Broker::spawn(settings, socket, hook_settings, &[], || UnixStream::connect(socket).is_ok())
    }

    /// Starts another one, which takes the socket of this one.
    pub(crate) fn replaced(&self, settings: PathBuf) -> Broker {
        let inode = || std::fs::metadata(&self.socket).unwrap().ino();
        let before = inode();
        Broker::spawn(settings, &self.socket, &self.hook_settings, &["--replace"], || inode() != before)
    }

    fn spawn(
        settings: PathBuf,
        socket: &Path,
        hook_settings: &Path,
        more: &[&str],
        listens: impl Fn() -> bool,
    ) -> Broker {
        let mut command = Command::new(program("oci-secrets-broker"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .args(more)
            .arg("--settings")
            .arg(settings)
            .arg("--socket")
            .arg(socket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut broker = Broker { child, socket: socket.to_owned(), hook_settings: hook_settings.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while !listens() {
            let ended = broker.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "the broker does not listen: {ended:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        broker
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The settings of the hook that asks it.
    pub(crate) fn hook_settings(&self) -> &Path {
        &self.hook_settings
    }

    /// Runs the hook that asks it with this state.
    pub(crate) fn hook(&self, state: &[u8]) -> Output {
        host::run(&mut hook(&self.hook_settings), state)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to end, and waits for it.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes settings that make the hook ask the broker at a socket.
pub(crate) fn write_hook_settings(path: &Path, socket: &Path, more: &str) {
    with_mode(path, format!("[broker]\nsocket = {socket:?}\n{more}").as_bytes(), 0o644);
}

/// The hook with these settings, and no environment.
pub(crate) fn hook(settings: &Path) -> Command {
    let mut command = Command::new(program("oci-secrets-hook"));
    command.env_clear().arg("--settings").arg(settings);
    command
}

/// What the metrics at a unix socket say.
pub(crate) fn metrics(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Starts a broker with a socket that listens already, as systemd passes it.
pub(crate) fn activated(settings: PathBuf, socket: &UnixListener) -> Child {
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    let script = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" --settings "$1""#;
    let mut command = Command::new("sh");
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["-c", script])
        .arg(program("oci-secrets-broker"))
        .arg(settings);
    let broker = command.stdin(socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !handles_termination(broker.id()) {
        assert!(Instant::now() < deadline, "the broker does not get ready");
        std::thread::sleep(Duration::from_millis(2));
    }
    broker
}

/// Whether a process would end its work at SIGTERM.
fn handles_termination(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    caught.is_some_and(|caught| caught & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

/// Sends a broker a signal.
pub(crate) fn signal(broker: &Child, signal: Signal) {
    kill_process(Pid::from_child(broker), signal).unwrap();
}

/// Asks a broker to end, and waits for it.
pub(crate) fn end(mut broker: Child) {
    signal(&broker, Signal::TERM);
    assert!(broker.wait().unwrap().success());
}
