//! Why the gateway does not start, or does not reload its settings.

use std::io;
use std::net::SocketAddr;

use super::fetch::IssuerError;
use super::settings;
use super::tls::TlsError;
use crate::errno::{Errno, SyscallError};
use crate::fault::{Class, Fault};
use crate::settings::{FileError, SettingsError};
use crate::source::SourceError;

/// Why the gateway does not start, or does not reload its settings.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum GatewayError {
    /// An unknown argument.
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
    /// The inherited environment cannot be cleared.
    #[error("refusing to run with an inherited environment")]
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
    #[error("cannot open the audit file")]
    Audit { source: FileError },
    /// No address.
    #[error("no address to listen on: the settings have no listen, and systemd passed no socket")]
    NoListen,
    /// The address cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        errno: Errno,
    },
    /// The descriptor that systemd passed is not a listening socket.
    #[error("cannot use the socket that systemd passed: {reason}")]
    Passed { reason: io::Error },
    /// The rights of the service's user cannot be assumed.
    #[error("cannot check with the rights of the service's user")]
    User { source: SyscallError },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals {
        #[source]
        errno: Errno,
    },
    /// The asynchronous runtime.
    #[error("cannot start the asynchronous runtime")]
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
            | GatewayError::User { .. }
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
