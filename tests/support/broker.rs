//! The broker of a host, and the hook that asks it.

use std::os::unix::net::UnixStream;
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
        let mut command = Command::new(program("oci-secrets-broker"));
        command.env_clear().env("PATH", "/usr/bin:/bin").arg("--settings").arg(settings).arg("--socket").arg(socket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut broker = Broker { child, socket: socket.to_owned(), hook_settings: hook_settings.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&broker.socket).is_err() {
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
