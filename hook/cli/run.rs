//! `oci-secrets run`: one command with secrets, as files that only it can see, or as variables.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::error::CliError;
use super::listed::{AllowedNames, requests, secrets, summary};
use super::source::Choice;
use super::{PROGRAM, load};
use crate::container::Owner;
use crate::deliver::{DeliveryOptions, Frozen, Placeholders, Private};
use crate::envrc::shell::variable_value;
use crate::envrc::{self, Envrc, EnvrcError, Variable};
use crate::fault::AnyFault;
use crate::report;
use crate::resolve::Resolved;
use crate::settings::Settings;

/// Run a command with secrets, as files that only it can see, or as variables.
///
/// The references are those of --env-file, the arguments and the environment. Prefer --files, a tmpfs that only the command and its
/// children see: variables are inherited by each process that the command starts, readable in /proc, and end up in crash reports and
/// logs. Without root, --files needs a user namespace: sudo does not work there, files of other users appear to belong to the overflow uid, and
/// memory may be swapped out. The command replaces this process.
#[derive(clap::Args)]
#[command(
    override_usage = "oci-secrets run [OPTIONS] [NAME=op://…]... -- <COMMAND>...",
    after_help = "\
Example: files in a directory that exists, and a variable

  mkdir -p ~/.secrets && oci-secrets run --env-file .envrc --files ~/.secrets -- ls -l ~/.secrets
  oci-secrets run API_KEY=op://AgentVault/openai/api-key -- env"
)]
pub(super) struct Arguments {
    /// A file with lines `export NAME=op://…`; may be repeated.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Deliver files in this directory, which must exist, instead of variables.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Run the command without secrets if there is no reference, instead of an error.
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    allowed: AllowedNames,
    #[command(flatten)]
    choice: Choice,
    /// Variables.
    #[arg(value_name = "NAME=op://…", hide = true)]
    variables: Vec<String>,
    /// The command, and its arguments.
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    command: Vec<OsString>,
}

pub(super) fn run(arguments: Arguments, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    let mut words = arguments.command.iter();
    let program = words.next().ok_or_else(no_command)?;
    let mut command = Command::new(program);
    command.args(words);
    let variables = variables(&arguments)?;
    arguments.allowed.check(&variables)?;
    if !variables.is_empty() {
        let settings = arguments.choice.over(load(settings_path)?);
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

/// Whether this process was started as `oci-secrets run` without `--`: clap takes the command for ours.
pub(super) fn lacks_separator() -> bool {
    let mut words = std::env::args_os();
    words.any(|word| word == "run") && words.all(|word| word != "--")
}

pub(super) fn no_command() -> CliError {
    CliError::CommandLine {
        message: "expected `--` and a command".into(),
        tip: Some("oci-secrets run [OPTIONS] [NAME=op://…]... -- COMMAND [ARGUMENT]...".into()),
    }
}

/// The variables of files and arguments; and of the environment, unless they are declared there: the command must not get a reference in
/// place of a secret.
fn variables(arguments: &Arguments) -> Result<Vec<Variable>, EnvrcError> {
    let mut found = Vec::new();
    for file in &arguments.env_file {
        let Envrc { variables, others } = envrc::read(file)?;
        found.extend(variables);
        note_others(file, others);
    }
    for text in &arguments.variables {
        found.push(envrc::argument(text)?);
    }
    let is_declared = |name: &OsString| found.iter().any(|variable| name == variable.name.as_str());
    let inherited = envrc::of_environment(std::env::vars_os().filter(|(name, _)| !is_declared(name)))?;
    found.extend(inherited);
    if found.is_empty() && !arguments.allow_empty {
        let files: Vec<_> = arguments.env_file.iter().map(|file| file.display().to_string()).collect();
        return Err(if files.is_empty() { EnvrcError::NoFile } else { EnvrcError::Empty { files: files.join(", ") } });
    }
    envrc::unite(found)
}

/// Reports the variables that a file sets to something else, unless the command inherits them.
fn note_others(file: &Path, mut others: Vec<(usize, String)>) {
    others.retain(|(_, name)| std::env::var_os(name).is_none());
    if !others.is_empty() {
        let names = summary(others.into_iter().map(|(line, name)| format!("{name} (line {line})")));
        report::note(PROGRAM, &format!("{}: run sets references only, and not {names}", file.display()));
    }
}

fn set(command: &mut Command, variables: &[Variable], secrets: &[Resolved<'_>]) -> Result<(), AnyFault> {
    for (variable, found) in variables.iter().zip(secrets) {
        let value = variable_value(&variable.name, &found.secret)?;
        command.env(&variable.name, OsStr::from_bytes(value));
    }
    Ok(())
}

/// Attaches a tmpfs with the secrets at a directory, in a mount namespace of this process.
fn deliver(directory: &Path, secrets: &[Resolved<'_>], settings: &Settings) -> Result<(), AnyFault> {
    let private = Private::enter()?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options =
        DeliveryOptions { owner: Owner { uid, gid }, label: None, root: None, noswap: settings.deliver.noswap };
    let files: Vec<_> = secrets.iter().map(|resolved| (&resolved.request.file, &resolved.secret)).collect();
    Ok(Frozen::filled(&files, &options, Placeholders::default())?.attach_at(directory, &private)?)
}
