//! The program: its arguments, its environment and its exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use futures_util::future::try_join_all;
use tokio::task::LocalSet;

use super::error::GatewayError;
use super::loaded::Loaded;
use super::log::PROGRAM;
use super::settings::SETTINGS_PATH;
use super::{key, log, server, service_user};
use crate::{harden, report, systemd};

/// What `--help` prints.
pub const HELP: &str = "\
A gateway to 1Password Connect for pipelines and pods: accepts the identity token of their
platform as a Connect token, and shows what the rules in the settings name.

Usage: oci-secrets-gateway [--settings PATH] [--check]

  --settings PATH  the settings file [default: /etc/oci-secrets/gateway.toml]
  --check          check the settings, the files that they name, and the names of the issuers,
                   and exit; as root, with the rights of the user oci-secrets-gateway, if it exists
  --version        print the version
  --help           print this help

SIGHUP reloads the settings; SIGTERM ends the gateway once the requests in progress are served.
";

/// Runs the gateway until it is terminated.
pub fn run() -> ExitCode {
    report::install_panic_hook(PROGRAM);
    let outcome = Call::parse(std::env::args_os().skip(1)).and_then(|call| match call {
        Call::Print(text) => {
            io::stdout().write_all(text.as_bytes()).map_err(|e| GatewayError::Output { errno: e.into() })
        }
        Call::Run { settings, is_check } => {
            harden::harden_but_keep(systemd::VARIABLES).map_err(|source| GatewayError::Environment { source })?;
            // The new start without the environment has named the process `exe`.
            let _ = rustix::thread::set_name(c"oci-secrets-gateway");
            harden::lock_memory();
            crate::tls::install();
            key::install();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| GatewayError::Runtime { errno: error.into() })?;
            let tasks = LocalSet::new();
            if is_check {
                tasks.block_on(&runtime, check(&settings))
            } else {
                tasks.block_on(&runtime, server::serve(&settings))
            }
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, None, &error),
    }
}

/// Checks the settings as the service will read them.
async fn check(settings: &Path) -> Result<(), GatewayError> {
    if let Some(user) = service_user::assume()? {
        log::note(&format!("checking with the rights of the user {user}"));
    }
    let loaded = Loaded::new(settings, &[], &Rc::default())?;
    try_join_all(loaded.gateway.issuers.iter().map(|issuer| issuer.check_name())).await?;
    Ok(())
}

/// What the command line requests.
enum Call {
    Run { settings: PathBuf, is_check: bool },
    Print(String),
}

impl Call {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Call, GatewayError> {
        let (mut settings, mut is_check) = (PathBuf::from(SETTINGS_PATH), false);
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--settings") => settings = arguments.next().map(PathBuf::from).ok_or(GatewayError::NoValue)?,
                Some("--check") => is_check = true,
                Some("--version") => return Ok(Call::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
                Some("--help") => return Ok(Call::Print(HELP.to_owned())),
                _ => return Err(GatewayError::Argument { found: argument.to_string_lossy().into_owned() }),
            }
        }
        // The working directory becomes the root directory.
        let settings = std::path::absolute(settings).map_err(|error| GatewayError::Runtime { errno: error.into() })?;
        Ok(Call::Run { settings, is_check })
    }
}
