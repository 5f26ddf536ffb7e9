//! `oci-secrets annotate`: the annotations by which a container asks for what a file lists.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::listed::variables;
use super::write_output;
use crate::envrc::{Format, Split};
use crate::fault::AnyFault;

/// What is printed in the place of options that could not be made: what `$(…)` fails with, the shell does not look at, and the
/// engine would start the container without its secrets.
const NO_OPTION: &str = "--oci-secrets-annotate-failed\n";

/// Print the annotations by which a container asks for the references in .envrc.
///
/// `export OPENAI_API_KEY="op://AgentVault/openai/api-key"` becomes the file openai-api-key. The file is read, not run: a reference
/// must stand alone and in full, and what only a shell could tell is refused. A line that ends with the comment `# no reference` is
/// passed over. If it fails, it prints an option that no engine has, so that the engine stops, too.
#[derive(clap::Args)]
#[command(after_help = "\
Example: start a container with the secrets that the shell has here

  podman run $(oci-secrets annotate .envrc) docker.io/library/alpine ls /run/secrets")]
pub(super) struct Arguments {
    /// Files as direnv reads them, and variables; .envrc if there is none.
    #[arg(value_name = "FILE | NAME=op://…")]
    listed: Vec<String>,
    /// Who shall read the annotations.
    #[arg(long, default_value = "podman")]
    format: Format,
    /// Let references have spaces: each line is one argument, as `mapfile -t` and fish read them.
    #[arg(long)]
    lines: bool,
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Format] {
        &Format::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, AnyFault> {
    let split = if arguments.lines { Split::Lines } else { Split::Words };
    let text = variables(&arguments.listed)
        .and_then(|variables| arguments.format.text(&variables, split).map_err(AnyFault::from));
    if text.is_err() && arguments.format.is_options() {
        stop_engine();
    }
    write_output(text?.as_bytes())
}

/// Makes an engine fail that takes what is printed for options.
pub(super) fn stop_engine() {
    if !stdout().is_terminal() {
        let _ = write_output(NO_OPTION.as_bytes());
    }
}
