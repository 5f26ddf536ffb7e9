//! `oci-secrets completions`: what a shell needs to complete our command lines.

use std::process::ExitCode;

use super::{PROGRAM, write_output};
use crate::fault::AnyFault;

/// Print a shell's completions.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

const EXAMPLE: &str = "\
Example: for every user of bash

  oci-secrets completions bash | sudo tee /usr/share/bash-completion/completions/oci-secrets";

#[derive(Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(arguments: &Arguments, command: &mut clap::Command) -> Result<ExitCode, AnyFault> {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, command, PROGRAM, &mut script);
    write_output(&script)
}
