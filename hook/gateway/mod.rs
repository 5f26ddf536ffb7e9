//! `oci-secrets-gateway`: the part of 1Password Connect that reads, for pipelines and pods that prove who they are.
//!
//! A client sends the identity token that its platform signed for it ([`token`]) where Connect expects one of its own. The gateway
//! verifies it by the issuer's keys ([`issuer`], [`key`]), finds the rules that admit its claims ([`rule`]), asks Connect by the one token
//! that only the gateway has ([`upstream`]), and cuts from the answer what the rules do not name ([`scope`]). Every decision is recorded
//! ([`record`]). [`service`] tells one request from its token to its answer.
//!
//! One thread does it all: what there is to do is small, and nothing needs a lock.

pub mod denial;
pub mod filter;
pub mod issuer;
pub mod key;
pub mod limit;
pub mod metrics;
pub mod record;
pub mod route;
pub mod rule;
pub mod scope;
pub mod server;
pub mod service;
pub mod settings;
pub mod systemd;
pub mod tls;
pub mod token;
pub mod upstream;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use issuer::IssuerError;
use metrics::Metrics;
use server::Loaded;
use settings::SETTINGS_PATH;
use tls::TlsError;
use tokio::task::LocalSet;

use crate::errno::{Errno, SyscallError};
use crate::fault::{Class, Fault};
use crate::settings::{FileError, SettingsError};
use crate::source::SourceError;
use crate::{harden, report};

/// How the gateway calls itself in messages.
pub const PROGRAM: &str = "oci-secrets-gateway";

const HELP: &str = "\
1Password Connect for pipelines that prove who they are: takes their platform's identity
token in place of a Connect token, and shows what the rules of the settings name.

Usage: oci-secrets-gateway [--settings PATH] [--check]

  --settings PATH  the settings file [default: /etc/oci-secrets/gateway.toml]
  --check          read the settings and the files that they name, and end
  --version        print the version
  --help           print this help

SIGHUP reads the settings anew; SIGTERM ends it when requests that are under way are done.
";

/// Runs the gateway until it is told to end.
pub fn run() -> ExitCode {
    report::install_panic_hook(PROGRAM);
    let outcome = Call::parse(std::env::args_os().skip(1)).and_then(|call| match call {
        Call::Print(text) => {
            io::stdout().write_all(text.as_bytes()).map_err(|e| GatewayError::Output { errno: e.into() })
        }
        Call::Run { settings, check } => {
            harden::harden_but_keep(systemd::VARIABLES).map_err(|source| GatewayError::Environment { source })?;
            // Beginning anew without the environment has left it the name of /proc/self/exe.
            let _ = rustix::thread::set_name(c"oci-secrets-gateway");
            harden::lock_memory();
            crate::tls::install();
            key::install();
            if check {
                return Loaded::new(&settings, &[], &Rc::new(Metrics::default())).map(drop);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| GatewayError::Runtime { errno: error.into() })?;
            LocalSet::new().block_on(&runtime, server::serve(&settings))
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, None, &error),
    }
}

/// Tells who looks after it of something that is no reason to end.
fn note(message: &str) {
    report::note(PROGRAM, message);
}

/// Tells them of something that went wrong, and what follows from it.
fn complain(consequence: &str, error: &GatewayError) {
    report::print_error(PROGRAM, &format!("{consequence}: {}", report::chain(error)), error.hint().as_deref());
}

/// What the command line asks for.
enum Call {
    Run { settings: PathBuf, check: bool },
    Print(String),
}

impl Call {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Call, GatewayError> {
        let (mut settings, mut check) = (PathBuf::from(SETTINGS_PATH), false);
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--settings") => settings = arguments.next().map(PathBuf::from).ok_or(GatewayError::NoValue)?,
                Some("--check") => check = true,
                Some("--version") => return Ok(Call::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
                Some("--help") => return Ok(Call::Print(HELP.to_owned())),
                _ => return Err(GatewayError::Argument { found: argument.to_string_lossy().into_owned() }),
            }
        }
        // It is left for the root directory.
        let settings = std::path::absolute(settings).map_err(|error| GatewayError::Runtime { errno: error.into() })?;
        Ok(Call::Run { settings, check })
    }
}

/// Why the gateway does not run, or not with new settings.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum GatewayError {
    /// An argument that it does not have.
    #[error("unknown argument {found:.120?}")]
    Argument { found: String },
    /// `--settings` at the end of the command line.
    #[error("--settings needs a path")]
    NoValue,
    /// Standard output.
    #[error("cannot write the output")]
    Output {
        #[source]
        errno: Errno,
    },
    /// The environment cannot be left behind.
    #[error("refusing to go on with an environment of others")]
    Environment { source: SyscallError },
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token for Connect, or its certificates.
    #[error(transparent)]
    Connect(#[from] SourceError),
    /// The certificates of an issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The audit file.
    #[error("cannot keep the audit file")]
    Audit { source: FileError },
    /// There is nowhere to listen.
    #[error("there is nowhere to listen: the settings have no listen, and systemd passed no socket")]
    NoListen,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        errno: Errno,
    },
    /// What systemd passed is not a socket that listens.
    #[error("cannot use the socket that systemd passed: {reason}")]
    Passed { reason: io::Error },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals {
        #[source]
        errno: Errno,
    },
    /// The asynchronous runtime.
    #[error("cannot prepare for the network")]
    Runtime {
        #[source]
        errno: Errno,
    },
}

impl Fault for GatewayError {
    fn class(&self) -> Class {
        match self {
            GatewayError::Argument { .. } | GatewayError::NoValue => Class::CommandLine,
            GatewayError::NoListen => Class::Settings,
            GatewayError::Settings(error) => error.class(),
            GatewayError::Tls(error) => error.class(),
            GatewayError::Connect(error) => error.class(),
            GatewayError::Issuer(error) => error.class(),
            GatewayError::Audit { source } => source.class(),
            GatewayError::Output { .. }
            | GatewayError::Environment { .. }
            | GatewayError::Listen { .. }
            | GatewayError::Passed { .. }
            | GatewayError::Signals { .. }
            | GatewayError::Runtime { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            GatewayError::Argument { .. } | GatewayError::NoValue => {
                Some("`oci-secrets-gateway --help` shows the arguments".to_owned())
            }
            GatewayError::NoListen => Some("add `listen = \"0.0.0.0:8443\"`, or start it by its socket".to_owned()),
            GatewayError::Settings(error) => error.hint_with(&settings::DOCUMENTS),
            GatewayError::Tls(error) => error.hint(),
            GatewayError::Connect(error) => error.hint(),
            GatewayError::Issuer(error) => error.hint(),
            GatewayError::Audit { source } => source.hint(),
            _ => None,
        }
    }
}
