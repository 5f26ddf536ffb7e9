//! `oci-secrets env`: references become variables of the shell that asks.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::error::CliError;
use super::listed::{requests, secrets, variables};
use super::source::Choice;
use super::{load_own, write_output};
use crate::envrc::Variable;
use crate::envrc::shell::{Shell, json};
use crate::fault::AnyFault;
use crate::secret::Secret;

/// Print commands that set the variables in .envrc to the secrets that they refer to.
///
/// All are fetched at once, or none is printed. Variables reach every program that the shell starts, and whoever may look at its
/// environment: `oci-secrets run --files` gives one command files instead. It is what `use oci_secrets` calls in direnv.
#[derive(clap::Args)]
#[command(after_help = "\
Example: in bash or zsh, and in fish

  eval \"$(oci-secrets env .envrc)\"
  oci-secrets env --shell fish .envrc | source")]
pub(super) struct Arguments {
    /// Files as direnv reads them, and variables; .envrc if there is none.
    #[arg(value_name = "FILE | NAME=op://…")]
    listed: Vec<String>,
    /// The shell that shall read them.
    #[arg(long, default_value = "bash")]
    shell: Shell,
    /// Print one JSON object instead.
    #[arg(long, conflicts_with = "shell")]
    json: bool,
    /// Print secrets on a terminal, too.
    #[arg(long)]
    show: bool,
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

pub(super) fn run(arguments: &Arguments, told: &Path) -> Result<ExitCode, AnyFault> {
    if stdout().is_terminal() && !arguments.show {
        return Err(CliError::Terminal.into());
    }
    let variables = variables(&arguments.listed)?;
    if variables.is_empty() && !arguments.json {
        return Ok(ExitCode::SUCCESS);
    }
    let unset = |source| CliError::Unset { names: names(&variables), source };
    Ok(print(arguments, told, &variables).map_err(unset)?)
}

fn print(arguments: &Arguments, told: &Path, variables: &[Variable]) -> Result<ExitCode, AnyFault> {
    let requests = requests(variables);
    let secrets =
        if requests.is_empty() { Vec::new() } else { secrets(&requests, &arguments.choice.over(load_own(told)?))? };
    let values: Vec<(&str, &Secret)> = variables
        .iter()
        .map(|variable| variable.name.as_str())
        .zip(secrets.iter().map(|found| &found.secret))
        .collect();
    let text = if arguments.json { json(&values) } else { arguments.shell.assignments(&values) };
    write_output(&text?)
}

/// The first of them by name, the rest by number.
fn names(variables: &[Variable]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown: Vec<&str> = variables.iter().take(SHOWN_MAX).map(|variable| variable.name.as_str()).collect();
    match variables.len().saturating_sub(SHOWN_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
