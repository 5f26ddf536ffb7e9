//! `oci-secrets env`: assignments of secrets, for a shell to evaluate.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::error::CliError;
use super::listed::{AllowedNames, requests, secrets, summary, variables};
use super::source::Choice;
use super::{load, write_output};
use crate::envrc::Variable;
use crate::envrc::shell::{Shell, json};
use crate::fault::AnyFault;
use crate::secret::Secret;

/// Print commands that set the variables in .envrc to their secrets.
///
/// All are fetched at once, or none is printed. Every program that the shell starts inherits the variables, and other programs of the same
/// user can read them in /proc: prefer `oci-secrets run --files`, which delivers files to one command. `use oci_secrets` in direnv calls
/// env.
#[derive(clap::Args)]
#[command(after_help = "\
Example: in bash or zsh, and in fish

  eval \"$(oci-secrets env .envrc)\"
  oci-secrets env --shell fish .envrc | source")]
pub(super) struct Arguments {
    /// Files with lines `export NAME=op://…`, and variables; .envrc by default.
    #[arg(value_name = "FILE | NAME=op://…")]
    listed: Vec<String>,
    /// The shell that evaluates the output: bash (the default), zsh, fish or direnv.
    #[arg(long, default_value = "bash", hide_default_value = true, hide_possible_values = true)]
    shell: Shell,
    /// Print one JSON object instead.
    #[arg(long, conflicts_with = "shell")]
    json: bool,
    /// Print secrets on a terminal, too.
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    allowed: AllowedNames,
    #[command(flatten)]
    choice: Choice,
}

impl ValueEnum for Shell {
    fn value_variants<'a>() -> &'a [Shell] {
        &Shell::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

pub(super) fn run(arguments: &Arguments, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    if stdout().is_terminal() && !arguments.show {
        return Err(CliError::Terminal.into());
    }
    let variables = variables(&arguments.listed)?;
    arguments.allowed.check(&variables)?;
    if variables.is_empty() && !arguments.json {
        return Ok(ExitCode::SUCCESS);
    }
    let names = || summary(variables.iter().map(|variable| variable.name.clone()));
    Ok(print(arguments, settings_path, &variables).map_err(|source| CliError::Unset { names: names(), source })?)
}

fn print(arguments: &Arguments, settings_path: &Path, variables: &[Variable]) -> Result<ExitCode, AnyFault> {
    let requests = requests(variables);
    let secrets = if requests.is_empty() {
        Vec::new()
    } else {
        secrets(&requests, &arguments.choice.over(load(settings_path)?))?
    };
    let values: Vec<(&Variable, &Secret)> =
        variables.iter().zip(secrets.iter().map(|resolved| &resolved.secret)).collect();
    let text = if arguments.json { json(&values) } else { arguments.shell.assignments(&values) };
    write_output(&text?)
}
