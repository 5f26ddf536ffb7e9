//! The program: its arguments, its environment and its exit code.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::LocalSet;

use super::blocking::THREADS_MAX;
use super::client::Connection;
use super::error::{PROGRAM, ProgramError};
use super::listen::socket_path;
use super::server;
use super::source::Shared;
use crate::settings::{BrokerAddress, SETTINGS_PATH, Settings};
use crate::whole_file::Existing;
use crate::{harden, kubernetes, report, systemd, tls};

/// How long a probe waits. The orchestrator's own time is longer, so that the reason is shown.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// What `--help` prints.
pub const HELP: &str = "\
Resolves secrets on behalf of the hooks of this host: holds the credentials, keeps connections
open, and sends each container's secrets as a read-only tmpfs, which the hook attaches.

Usage: oci-secrets-broker [--settings PATH] [--socket PATH] [--replace | --check | --live | --ready]

  --settings PATH  the settings file [default: /etc/oci-secrets/settings.toml]
  --socket PATH    where to listen, unless systemd passes sockets
                   [default: `socket` under [broker] in the settings, else /run/oci-secrets/broker.sock]
  --replace        take the socket of a broker that is running, which serves its starts to their end
  --check          check the settings and the files that they name, and exit
  --live           exit with 0 if a broker answers at the socket
  --ready          the same, and if it is registered with the runtime, where [nri] names a socket
  --version        print the version
  --help           print this help

SIGHUP loads the settings again; SIGTERM ends the broker once the starts in progress are served.
";

/// Runs the broker until it is terminated.
pub fn run() -> ExitCode {
    report::install_panic_hook(PROGRAM);
    let outcome = Call::parse(std::env::args_os().skip(1)).and_then(|call| match call {
        Call::Print(text) => {
            io::stdout().write_all(text.as_bytes()).map_err(|e| ProgramError::Output { errno: e.into() })
        }
        Call::Check { settings } => check(&settings),
        Call::Probe { settings, socket, probe } => run_probe(&settings, socket.as_deref(), probe),
        Call::Run { settings, socket, existing } => serve(&settings, socket.as_deref(), existing),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, None, &error),
    }
}

fn check(settings: &Path) -> Result<(), ProgramError> {
    harden::harden().map_err(|source| ProgramError::Environment { source })?;
    tls::install();
    Shared::open(&Settings::load(settings)?)?;
    Ok(())
}

fn run_probe(settings: &Path, socket: Option<&Path>, probe: Probe) -> Result<(), ProgramError> {
    let settings = Settings::load(settings)?;
    let kubernetes_namespace = settings.broker.kubernetes_namespace.clone();
    let broker = BrokerAddress { socket: socket_path(socket, &settings).to_owned(), kubernetes_namespace };
    let status = Connection::open(broker, PROBE_TIMEOUT)?.status()?;
    match status.nri {
        Some(plugin) if probe == Probe::Ready && plugin.runtime.is_none() => {
            Err(ProgramError::NotRegistered { socket: plugin.socket })
        }
        _ => Ok(()),
    }
}

fn serve(settings: &Path, socket: Option<&Path>, existing: Existing) -> Result<(), ProgramError> {
    harden::harden_but_keep(&[systemd::VARIABLES, kubernetes::VARIABLES].concat())
        .map_err(|source| ProgramError::Environment { source })?;
    if !harden::is_root_of_the_host() {
        return Err(ProgramError::NotRoot);
    }
    // The new start without the environment has named the process `exe`.
    let _ = rustix::thread::set_name(c"oci-secrets-broker");
    harden::lock_memory();
    tls::install();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(THREADS_MAX).build();
    let runtime = runtime.map_err(|error| ProgramError::Runtime { errno: error.into() })?;
    let served = LocalSet::new().block_on(&runtime, server::serve(settings, socket, existing));
    // Work that is still in progress must not delay a restart.
    runtime.shutdown_background();
    served
}

/// What the command line requests.
enum Call {
    Run { settings: PathBuf, socket: Option<PathBuf>, existing: Existing },
    Check { settings: PathBuf },
    Probe { settings: PathBuf, socket: Option<PathBuf>, probe: Probe },
    Print(String),
}

/// What a probe of an orchestrator asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Whether it answers.
    Live,
    /// Whether it serves containers, too.
    Ready,
}

impl Call {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Call, ProgramError> {
        let (mut settings, mut socket, mut existing) = (PathBuf::from(SETTINGS_PATH), None, Existing::Keep);
        let (mut is_check, mut probe) = (false, None);
        while let Some(argument) = arguments.next() {
            let mut path = |option| {
                let path = arguments.next().ok_or(ProgramError::NoValue { option })?;
                // The working directory becomes the root directory.
                std::path::absolute(path).map_err(|error| ProgramError::Runtime { errno: error.into() })
            };
            match argument.to_str() {
                Some("--settings") => settings = path("--settings")?,
                Some("--socket") => socket = Some(path("--socket")?),
                Some("--replace") => existing = Existing::Replace,
                Some("--check") => is_check = true,
                Some("--live") => probe = Some(Probe::Live),
                Some("--ready") => probe = Some(Probe::Ready),
                Some("--version") => return Ok(Call::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
                Some("--help") => return Ok(Call::Print(HELP.to_owned())),
                _ => return Err(ProgramError::Argument { found: argument.to_string_lossy().into_owned() }),
            }
        }
        Ok(match probe {
            _ if is_check => Call::Check { settings },
            Some(probe) => Call::Probe { settings, socket, probe },
            None => Call::Run { settings, socket, existing },
        })
    }
}
