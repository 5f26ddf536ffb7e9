//! The command line of the hook.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::error::HookError;
use crate::container::CHECK_ANNOTATIONS;
use crate::report;
use crate::settings::SETTINGS_PATH;

/// The name of the program in messages.
pub const PROGRAM: &str = "oci-secrets-hook";

/// What `--help` prints.
pub const HELP: &str = "\
OCI createRuntime hook: reads a container's state on standard input and delivers the
secrets that its annotations request as files below /run/secrets.

Usage: oci-secrets-hook [--settings PATH | --check-annotations] < state.json

  --settings PATH      the settings file [default: /etc/oci-secrets/settings.toml]
  --check-annotations  only refuse references in annotations of other keys
  --version            print the version
  --help               print this help
";

/// A parsed command line.
pub(super) enum Call {
    Start {
        settings: PathBuf,
    },
    /// Refuses references under keys that are not ours, and delivers nothing.
    CheckAnnotations,
    Print(String),
}

impl Call {
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Call, HookError> {
        let mut settings = PathBuf::from(SETTINGS_PATH);
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some(CHECK_ANNOTATIONS) => return Ok(Call::CheckAnnotations),
                Some("--settings") => settings = arguments.next().map(PathBuf::from).ok_or(HookError::NoValue)?,
                Some("--version") => return Ok(Call::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
                Some("--help") => return Ok(Call::Print(HELP.to_owned())),
                _ => return Err(HookError::Argument { found: argument.to_string_lossy().into_owned() }),
            }
        }
        Ok(Call::Start { settings })
    }
}

pub(super) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, None, &HookError::Output { errno: error.into() }),
    }
}
