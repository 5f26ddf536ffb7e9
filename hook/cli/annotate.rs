//! `oci-secrets annotate`: the annotations that request the references in a file.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::listed::{listed_or_default, variables};
use super::write_output;
use crate::envrc::{EnvrcError, Format, Split};
use crate::fault::AnyFault;

/// Printed instead of options after an error. The shell ignores the exit code of `$(…)`, and the engine would start the container
/// without its secrets.
const NO_OPTION: &str = "--oci-secrets-annotate-failed\n";

/// Print the annotations that request the references in .envrc.
///
/// `export OPENAI_API_KEY="op://AgentVault/openai/api-key"` becomes the file openai-api-key. Each reference needs a line of exactly this
/// form; the quotes are optional, and a comment may follow. Any other line with op:// is an error unless it ends with the comment
/// `# no reference`. All other lines are ignored, and bash is not emulated. After an error, annotate prints an option that no engine
/// has, so that the engine stops, too.
#[derive(clap::Args)]
#[command(after_help = "\
Example: start a container with the secrets of this directory

  podman run $(oci-secrets annotate .envrc) docker.io/library/alpine ls /run/secrets")]
pub(super) struct Arguments {
    /// Files with lines `export NAME=op://…`, and variables; .envrc by default.
    #[arg(value_name = "FILE | NAME=op://…")]
    listed: Vec<String>,
    /// The engine or file that takes the annotations.
    #[arg(long, default_value = "podman")]
    format: Format,
    /// Allow spaces in references: each line is one argument, as `mapfile -t` and fish read them.
    #[arg(long)]
    lines: bool,
    /// Print no annotation if there is no reference, instead of an error.
    #[arg(long)]
    allow_empty: bool,
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
    let text = annotations(arguments);
    if text.is_err() && arguments.format.is_options() {
        stop_engine();
    }
    write_output(text?.as_bytes())
}

fn annotations(arguments: &Arguments) -> Result<String, EnvrcError> {
    let variables = variables(&arguments.listed)?;
    if variables.is_empty() && !arguments.allow_empty {
        return Err(EnvrcError::Empty { files: listed_or_default(&arguments.listed).join(", ") });
    }
    arguments.format.text(&variables, if arguments.lines { Split::Lines } else { Split::Words })
}

/// Prints an option that makes an engine fail, for a command line that contains the output.
pub(super) fn stop_engine() {
    if !stdout().is_terminal() {
        let _ = write_output(NO_OPTION.as_bytes());
    }
}
