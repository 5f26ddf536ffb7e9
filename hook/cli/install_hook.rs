//! `oci-secrets install-hook`: puts the hook on a node, from the image.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::error::CliError;
use super::write_output;
use crate::container::HOOK_NAME;
use crate::engine::{HOOK_PATH, InstallError};
use crate::fault::AnyFault;
use crate::settings::file::{self, Kind};
use crate::settings::{SETTINGS_BYTES_MAX, Settings};
use crate::whole_file::{self, Existing};

/// The settings, next to the hook.
const SETTINGS_NAME: &str = "settings.toml";

const PROGRAM_BYTES_MAX: usize = 1 << 30;

/// Copy the hook and its settings to a directory of the node.
///
/// For an init container, which mounts the directory: the image has neither a shell nor `cp`. The settings of `--settings` are checked
/// and become settings.toml, before the hook. Each file is replaced by one rename, so that a container that starts at the same time gets
/// the old hook or the new one.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The hook that is copied.
    #[arg(long, value_name = "PATH", default_value = HOOK_PATH)]
    from: PathBuf,
    /// The directory.
    directory: PathBuf,
}

const EXAMPLE: &str = "\
Example: in an init container that mounts a directory of the node at /node

  oci-secrets install-hook --settings /etc/oci-secrets/hook.toml /node";

pub(super) fn run(arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    Settings::load(settings)?;
    let text = file::read(settings, Kind::Plain, SETTINGS_BYTES_MAX)?;
    let program = file::read(&arguments.from, Kind::Plain, PROGRAM_BYTES_MAX)?;
    replace(&arguments.directory.join(SETTINGS_NAME), &text, 0o644)?;
    let hook = arguments.directory.join(HOOK_NAME);
    replace(&hook, &program, 0o755)?;
    // Others who could exchange it would run their program as root.
    file::require_program(&hook).map_err(|source| CliError::Hook { source })?;
    write_output(format!("written   {}\n", hook.display()).as_bytes())
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let prepare = |file: &std::fs::File| file.set_permissions(Permissions::from_mode(mode));
    whole_file::write(path, content, Existing::Replace, prepare)
        .map_err(|error| InstallError::Write { path: path.to_owned(), errno: error.into() })
}
