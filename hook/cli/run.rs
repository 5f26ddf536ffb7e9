//! `oci-secrets run`: one command with secrets, as files that only it sees, or as variables.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::error::CliError;
use super::listed::{requests, secrets};
use super::load_own;
use super::source::Choice;
use crate::container::Owner;
use crate::deliver::{Carried, Private, Tmpfs, TmpfsError, TmpfsOptions};
use crate::envrc::shell::variable_value;
use crate::envrc::{self, EnvrcError, Variable};
use crate::fault::AnyFault;
use crate::resolve::Resolved;
use crate::settings::Settings;

/// Run a command with secrets, as files that only it sees, or as variables.
///
/// Files are better: everything that the command starts inherits variables, every program of the same user can read them in /proc, and
/// they end up in crash reports and logs. With --files, secrets are on a tmpfs that exists only for the command and what it starts.
/// Without root that takes a user namespace, in which sudo does not work, files of others seem to be nobody's, and memory may be
/// swapped out. This program becomes the command, whose input and output, exit status and signals are its own. It leaves no core dump.
#[derive(clap::Args)]
#[command(after_help = "\
Example: files in a directory that exists, and a variable

  mkdir -p ~/.secrets && oci-secrets run --env-file .envrc --files ~/.secrets -- ls -l ~/.secrets
  oci-secrets run API_KEY=op://AgentVault/openai/api-key -- env")]
pub(super) struct Arguments {
    /// A file as direnv reads it; may be given several times.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Give files in this directory, which must exist, instead of variables.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    #[command(flatten)]
    choice: Choice,
    /// Variables.
    #[arg(value_name = "NAME=op://…", required_unless_present = "env_file")]
    variables: Vec<String>,
    /// The command, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(arguments: Arguments, told: &Path) -> Result<ExitCode, AnyFault> {
    let variables = variables(&arguments)?;
    let mut words = arguments.command.iter();
    let program = words.next().map_or(OsStr::new(""), OsString::as_os_str);
    let mut command = Command::new(program);
    command.args(words);
    if !variables.is_empty() {
        let settings = arguments.choice.over(load_own(told)?);
        let requests = requests(&variables);
        let secrets = secrets(&requests, &settings)?;
        match &arguments.files {
            None => set(&mut command, &variables, &secrets)?,
            Some(directory) => {
                deliver(directory, &secrets, &settings)?;
                variables.iter().for_each(|variable| _ = command.env_remove(&variable.name));
            }
        }
    }
    let errno = command.exec().into();
    Err(CliError::Command { program: program.to_owned(), errno }.into())
}

fn variables(arguments: &Arguments) -> Result<Vec<Variable>, EnvrcError> {
    let mut found = Vec::new();
    for file in &arguments.env_file {
        found.extend(envrc::read(file)?);
    }
    for text in &arguments.variables {
        found.push(envrc::argument(text)?);
    }
    envrc::unite(found)
}

fn set(command: &mut Command, variables: &[Variable], secrets: &[Resolved<'_>]) -> Result<(), AnyFault> {
    for (variable, found) in variables.iter().zip(secrets) {
        let value = variable_value(&variable.name, &found.secret)?;
        command.env(&variable.name, OsStr::from_bytes(value));
    }
    Ok(())
}

/// Gives this process, and so the command, a tmpfs at a directory.
fn deliver(directory: &Path, secrets: &[Resolved<'_>], settings: &Settings) -> Result<(), AnyFault> {
    let private = Private::enter()?;
    let options = TmpfsOptions {
        files: secrets.len(),
        bytes: secrets.iter().map(|found| found.secret.expose().len()).sum(),
        label: None,
        noswap: settings.deliver.noswap,
    };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let filled = || -> Result<_, TmpfsError> {
        let tmpfs = Tmpfs::create(&options, Carried::default())?;
        secrets.iter().try_for_each(|found| tmpfs.write(&found.request.file, &found.secret, Owner { uid, gid }))?;
        tmpfs.freeze()
    };
    filled()?.attach_at(directory, &private).map_err(AnyFault::from)
}
