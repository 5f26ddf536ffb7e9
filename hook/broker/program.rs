//! The program: its arguments, its environment and its exit code.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::task::LocalSet;

use super::blocking::THREADS_MAX;
use super::error::{PROGRAM, ProgramError};
use super::server;
use super::source::Shared;
use crate::settings::{SETTINGS_PATH, Settings};
use crate::{harden, report, systemd, tls};

/// What `--help` prints.
pub const HELP: &str = "\
Resolves secrets on behalf of the hooks of this host: holds the credentials, keeps connections
open, and sends each container's secrets as a read-only tmpfs, which the hook attaches.

Usage: oci-secrets-broker [--settings PATH] [--socket PATH] [--check]

  --settings PATH  the settings file [default: /etc/oci-secrets/settings.toml]
  --socket PATH    where to listen, unless systemd passes sockets
                   [default: `socket` under [broker] in the settings, else /run/oci-secrets/broker.sock]
  --check          check the settings and the files that they name, and exit
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
        Call::Run { settings, socket } => serve(&settings, socket.as_deref()),
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

fn serve(settings: &Path, socket: Option<&Path>) -> Result<(), ProgramError> {
    harden::harden_but_keep(systemd::VARIABLES).map_err(|source| ProgramError::Environment { source })?;
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
    let served = LocalSet::new().block_on(&runtime, server::serve(settings, socket));
    // Work that is still in progress must not delay a restart.
    runtime.shutdown_background();
    served
}

/// What the command line requests.
enum Call {
    Run { settings: PathBuf, socket: Option<PathBuf> },
    Check { settings: PathBuf },
    Print(String),
}

impl Call {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Call, ProgramError> {
        let (mut settings, mut socket, mut is_check) = (PathBuf::from(SETTINGS_PATH), None, false);
        while let Some(argument) = arguments.next() {
            let mut path = |option| {
                let path = arguments.next().ok_or(ProgramError::NoValue { option })?;
                // The working directory becomes the root directory.
                std::path::absolute(path).map_err(|error| ProgramError::Runtime { errno: error.into() })
            };
            match argument.to_str() {
                Some("--settings") => settings = path("--settings")?,
                Some("--socket") => socket = Some(path("--socket")?),
                Some("--check") => is_check = true,
                Some("--version") => return Ok(Call::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
                Some("--help") => return Ok(Call::Print(HELP.to_owned())),
                _ => return Err(ProgramError::Argument { found: argument.to_string_lossy().into_owned() }),
            }
        }
        Ok(if is_check { Call::Check { settings } } else { Call::Run { settings, socket } })
    }
}
